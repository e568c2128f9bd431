"""Balances: the latest one known, and the days on which the customer was told that it is low."""

from datetime import date, time, tzinfo

from msgspec import Struct

from streams.times import format_money, local_datetime
from tables.explained import Explained, Sentence

_DAYS_LISTED = 16
_SPANS_REMEMBERED = 64


class Balance(Struct, array_like=True, gc=False):
    """Of one account. Persisted: append fields only, with defaults."""

    latest: int | None = None
    """In fen."""
    told_days: tuple[int, ...] = ()
    """Local days (proleptic ordinals) on which a low balance was told, in the order of telling;
    0.1.0 sorted them."""
    told_before: tuple[tuple[int, int], ...] = ()
    """Earlier such days: the first and the last of those that follow one another."""


def is_low(balance: Balance, threshold: int | None) -> bool:
    """Is the latest balance known below the threshold (in fen, None: there is none)?"""
    return threshold is not None and balance.latest is not None and balance.latest < threshold


def fold(balance: Balance, latest: int, threshold: int | None) -> bool:
    """Take a new balance in; did it fall below the threshold?

    It did where the one known before was not below it, or none was known.
    """
    before, balance.latest = balance.latest, latest
    return threshold is not None and latest < threshold and (before is None or before >= threshold)


def was_told(balance: Balance, day: int) -> bool:
    """Was a low balance told on this local day?"""
    return day in balance.told_days or any(
        first <= day <= last for first, last in balance.told_before
    )


def tell(balance: Balance, day: int, today: int) -> bool:
    """Is a low balance to be told on this local day? Once a day, whatever the cause.

    `today`: of the latest tick, which asks each minute, so that it stays in the list.
    """
    if was_told(balance, day):
        return False
    told = balance.told_days
    if len(told) >= _DAYS_LISTED:
        oldest = next(one for one in told if one != today)
        told = tuple(one for one in told if one != oldest)
        balance.told_before = _with_day(balance.told_before, oldest)
    balance.told_days = (*told, day)
    return True


def _with_day(spans: tuple[tuple[int, int], ...], day: int) -> tuple[tuple[int, int], ...]:
    """Return spans of days, in their order, with one more day. Where there are too many, the
    earliest is forgotten."""
    first = last = day
    apart = []
    for begin, end in spans:
        if begin - 1 <= day <= end + 1:
            first, last = min(first, begin), max(last, end)
        else:
            apart.append((begin, end))
    return tuple(sorted([*apart, (first, last)])[-_SPANS_REMEMBERED:])


def explain(
    balance: Balance, threshold: int | None, *, tick: int, reminder_time: time, zone: tzinfo
) -> Explained:
    """Say how an account's balance is to its threshold, and when a low one is told."""
    latest = None if balance.latest is None else format_money(balance.latest)
    needs = None if threshold is None else format_money(threshold)
    told = ""
    if tick:
        today = local_datetime(tick, zone).date()
        told = today.isoformat() if was_told(balance, today.toordinal()) else ""
    if needs is None:
        reason = Sentence("没有设置余额阈值。", "No balance threshold is set.")
    elif latest is None:
        reason = Sentence("还不知道账户余额。", "No balance is known yet.")
    elif not is_low(balance, threshold):
        reason = Sentence(
            f"余额{latest}不低于阈值{needs}。",
            f"The balance {latest} is not below the threshold {needs}.",
        )
    elif told:
        reason = Sentence(
            f"余额{latest}低于阈值{needs}，今天（{told}）已经通知过。",
            f"The balance {latest} is below the threshold {needs}, and was told today already "
            f"({told}).",
        )
    else:
        at = f"{reminder_time:%H:%M}"
        reason = Sentence(
            f"余额{latest}低于阈值{needs}，{at}起的下一次时钟会通知。",
            f"The balance {latest} is below the threshold {needs}: the next tick at or after {at} "
            "tells it.",
        )
    return Explained(latest, needs, [reason])


def told_dates(balance: Balance) -> list[str]:
    """Return the latest local days on which a low balance was told, as dates, oldest first."""
    return [date.fromordinal(day).isoformat() for day in sorted(balance.told_days)]

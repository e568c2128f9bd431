"""Balances: the latest one known, and the days on which the customer was told that it is low."""

from msgspec import Struct

_DAYS_REMEMBERED = 16


class Balance(Struct, array_like=True, gc=False):
    """Of one account. Persisted: append fields only, with defaults."""

    latest: int | None = None
    """In fen."""
    told_days: tuple[int, ...] = ()
    """Local days (proleptic ordinals) on which a low balance was told, oldest first."""


def is_low(balance: Balance, threshold: int | None) -> bool:
    """Is the latest balance known below the threshold (in fen, None: there is none)?"""
    return threshold is not None and balance.latest is not None and balance.latest < threshold


def fold(balance: Balance, latest: int, threshold: int | None) -> bool:
    """Take a new balance in; did it fall below the threshold?

    It did where the one known before was not below it, or none was known.
    """
    before, balance.latest = balance.latest, latest
    return threshold is not None and latest < threshold and (before is None or before >= threshold)


def tell(balance: Balance, day: int) -> bool:
    """Is a low balance to be told on this local day? Once a day, whatever the cause."""
    if day in balance.told_days:
        return False
    balance.told_days = tuple(sorted((*balance.told_days, day))[-_DAYS_REMEMBERED:])
    return True

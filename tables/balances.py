"""Balances: the latest one known, and the days on which the customer was told that it is low."""

from msgspec import Struct

_DAYS_REMEMBERED = 16


class Balance(Struct, array_like=True):
    """Of one account. Persisted: append fields only, with defaults."""

    latest: int | None = None
    """In fen."""
    told_days: list[int] = []
    """Local days (proleptic ordinals) on which a low balance was told, oldest first."""


def is_low(balance: Balance, threshold: int | None) -> bool:
    """Is the latest balance known below the threshold (in fen, None: there is none)?"""
    return threshold is not None and balance.latest is not None and balance.latest < threshold


def fold(balance: Balance, latest: int, threshold: int | None, day: int) -> bool:
    """Take a new balance in; is the customer to be told, because it fell below the threshold?"""
    was_low = is_low(balance, threshold)
    balance.latest = latest
    return not was_low and is_low(balance, threshold) and _tell(balance, day)


def remind(balance: Balance, threshold: int | None, day: int) -> bool:
    """Is the customer to be told on this day that the balance still is low?"""
    return is_low(balance, threshold) and _tell(balance, day)


def _tell(balance: Balance, day: int) -> bool:
    if day in balance.told_days:
        return False
    balance.told_days = sorted([*balance.told_days, day])[-_DAYS_REMEMBERED:]
    return True

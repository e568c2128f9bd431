"""Instants and money as they stand in records, and as integers.

An instant is an int: microseconds since 1970-01-01 UTC. Money is an int: fen (1/100 yuan). Both
compare and encode cheaply, and two spellings of one instant are one value.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo

import msgspec

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# msgspec also takes a space for the T and an offset without a colon; RFC 3339, 5.6, does not.
_SHAPE = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:)(\d\d)(?:(\.\d{1,6})(\d*))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_MONEY = re.compile(r"-?\d{1,15}(?:\.\d{1,2})?", re.ASCII)


def to_instant(moment: datetime) -> int:
    """Return an aware datetime as an instant."""
    return (moment - _EPOCH) // _MICROSECOND


def parse_instant(text: str) -> int:
    """Return the instant of an RFC 3339 time with an offset.

    Raises ValueError with what is wrong. A leap second counts as the second after :59. What is
    finer than a microsecond is cut off, as everyone does who prints such times: rounded up it
    could be another day.
    """
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise ValueError("is no RFC 3339 time with an offset")
    is_leap_second = shape[2] == "60"
    if is_leap_second or shape[4]:
        second = "59" if is_leap_second else shape[2]
        text = f"{shape[1]}{second}{shape[3] or ''}{shape[5]}"
    try:
        instant = to_instant(msgspec.convert(text, datetime))
        if is_leap_second:
            instant += SECOND
        from_instant(instant)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError("is out of range") from None
    return instant


def from_instant(instant: int) -> datetime:
    """Return an instant as a UTC datetime."""
    return _EPOCH + timedelta(microseconds=instant)


def local_datetime(instant: int, zone: tzinfo) -> datetime:
    """Return an instant in a zone; in UTC where the calendar ends (31 December 9999)."""
    moment = from_instant(instant)
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment


def format_instant(instant: int, zone: tzinfo) -> str:
    """Return an instant as RFC 3339 with the zone's offset; in UTC where that has seconds, which
    RFC 3339 has no place for (the sun's own time, in Shanghai until 1901)."""
    local = local_datetime(instant, zone)
    offset = local.utcoffset()
    if offset is not None and offset.seconds % 60:
        local = from_instant(instant)
    return local.isoformat()


def format_moment(instant: int, zone: tzinfo) -> str:
    """Return when something was done, as deliveries and dead letters say it: with milliseconds."""
    return local_datetime(instant, zone).isoformat(timespec="milliseconds")


def parse_money(text: str) -> int:
    """Return a decimal string in yuan (at most two decimals) as fen. Raises ValueError."""
    if 3 < len(text) < 19 and text[-3] == ".":
        # Nearly all money looks so, and hardly any repeats: a memo costs three times as much.
        digits = text.replace(".", "", 1)
        if digits.isdecimal() and digits.isascii():
            return int(digits)
    if _MONEY.fullmatch(text) is None:
        raise ValueError("is no money: a decimal string in yuan with at most two decimals")
    yuan, _, fen = text.lstrip("-").partition(".")
    amount = int(yuan) * 100 + int(fen.ljust(2, "0") or 0)
    return -amount if text.startswith("-") else amount


def format_money(fen: int) -> str:
    """Return fen as a decimal string in yuan with two decimals, as records carry it."""
    sign = "-" if fen < 0 else ""
    return f"{sign}{abs(fen) // 100}.{abs(fen) % 100:02d}"

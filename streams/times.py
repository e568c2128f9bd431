"""Instants and money: as texts in records, and as integers.

An instant is an int: microseconds since 1970-01-01 UTC. Money is an int: fen (1/100 yuan). Both
are cheap to compare and encode, and two texts of the same instant give the same int.
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


EARLIEST = to_instant(datetime.min.replace(tzinfo=UTC))
LATEST = to_instant(datetime.max.replace(tzinfo=UTC))
"""The instants between which the calendar has days: of the years 1 to 9999."""


def parse_instant(text: str) -> int:
    """Return the instant of an RFC 3339 time with an offset.

    Raises ValueError with what is wrong. A leap second counts as the second after :59. Digits
    beyond microseconds are cut off, as is usual: rounding up could lead to the next day.
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
    """Return an instant as a datetime in a zone; in UTC on the calendar's first and last day.

    What lies outside the calendar (the timestamp of a record may be any number) becomes its end.
    """
    moment = from_instant(min(max(instant, EARLIEST), LATEST))
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment


def format_instant(instant: int, zone: tzinfo) -> str:
    """Return an instant as RFC 3339 with the zone's offset. Where the offset has seconds (local
    solar time, in Shanghai until 1901), which RFC 3339 can't express, return it in UTC."""
    local = local_datetime(instant, zone)
    offset = local.utcoffset()
    if offset is not None and offset.seconds % 60:
        local = local.astimezone(UTC)
    return local.isoformat()


def format_moment(instant: int, zone: tzinfo) -> str:
    """Return an instant as deliveries and dead letters carry it: RFC 3339 with milliseconds."""
    return local_datetime(instant, zone).isoformat(timespec="milliseconds")


def parse_money(text: str) -> int:
    """Return a decimal string in yuan (at most two decimals) as fen. Raises ValueError."""
    if 3 < len(text) < 19 and text[-3] == ".":
        # Nearly all amounts look like this, and few repeat: a cache costs three times as much.
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

"""Parsing the times that people give with `--since` and `--until`.

2026-02-14T10:00:00+08:00   a time with an offset, or with Z
2026-02-14                  that day's midnight, in the zone of the settings
-2h  -7d  -90m  -30s        so long ago
end                         now
@FROM:TO                    rpk's range, for --since alone: @-48h:-24h, @-1m:end,
                            @2026-02-14:1h (an hour from there), @1760000000000 (ms)
"""

import re
import time
from datetime import date, datetime, tzinfo

from app.errors import SettingsError
from streams.times import DAY, HOUR, SECOND, parse_instant, to_instant

_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": DAY, "w": 7 * DAY}
_SPAN = re.compile(r"(-?)((?:\d{1,9}[smhdw])+)", re.ASCII)
_PART = re.compile(r"(\d+)([smhdw])", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EPOCH = re.compile(r"\d{10}|\d{13}", re.ASCII)
_EXAMPLE = "for example 2026-02-14T00:00:00+08:00, 2026-02-14, -2h, -7d or @-48h:-24h"


def range_of(zone: tzinfo, since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Return the instants of `--since` and `--until` at this moment. Raises SettingsError."""
    return parse_range(since, until, zone=zone, now=int(time.time() * SECOND))


def parse_range(
    since: str | None, until: str | None, *, zone: tzinfo, now: int
) -> tuple[int | None, int | None]:
    """Return the instants of a range; None: open. Raises SettingsError, with a line for each wrong
    option, and where the range ends before it begins."""
    wrong = []
    begin = end = None
    if since is not None and since.startswith("@"):
        if until is not None:
            raise SettingsError([f"--until: {since} is a whole range already, leave it out"])
        since, until = _halves(since[1:], zone=zone, now=now)
    try:
        begin = None if since is None else parse_moment(since, zone=zone, now=now)
    except ValueError:
        wrong.append(f"--since: {since!r} is no time, {_EXAMPLE}")
    try:
        after = now if begin is None else begin
        end = None if until is None else parse_moment(until, zone=zone, now=now, after=after)
    except ValueError:
        wrong.append(f"--until: {until!r} is no time, {_EXAMPLE}")
    if begin is not None and end is not None and begin >= end:
        wrong.append("--since: must be before --until, the range is turned round")
    if wrong:
        raise SettingsError(wrong)
    return begin, end


def parse_moment(text: str, *, zone: tzinfo, now: int, after: int | None = None) -> int:
    """Return the instant of one end of a range. A span without a minus (`1h`) is counted from the
    instant `after`, where that is given. Raises ValueError."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        length = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(span[2]))
        if not span[1] and after is None:
            raise ValueError("a span from nowhere")
        moment = now - length if span[1] else (after or 0) + length
        if not 0 <= moment < 253_402_300_800 * SECOND:
            raise ValueError("is out of range")
        return moment
    if text == "end":
        return now
    if text == "start":
        return 0
    if _EPOCH.fullmatch(text):
        return int(text) * (SECOND if len(text) == 10 else 1000)
    if _DAY.fullmatch(text):
        day = date.fromisoformat(text)
        return to_instant(datetime(day.year, day.month, day.day, tzinfo=zone))
    return parse_instant(text)


def _halves(text: str, *, zone: tzinfo, now: int) -> tuple[str, str | None]:
    """Return the two ends of `@FROM:TO`. Times have colons too, so it is split at the colon where
    both halves are valid."""
    parts = text.split(":")
    for count in range(1, len(parts)):
        first, second = ":".join(parts[:count]), ":".join(parts[count:])
        try:
            parse_moment(second, zone=zone, now=now, after=parse_moment(first, zone=zone, now=now))
        except ValueError:
            continue
        return first, second
    return text, None

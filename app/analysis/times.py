"""Ranges as people give them: a time with an offset, or how long ago."""

import re
import time

from app.errors import SettingsError, all_of
from streams.times import DAY, HOUR, SECOND, parse_instant

_AGO = re.compile(r"-(\d{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": DAY, "w": 7 * DAY}


def instant_of(option: str, text: str | None) -> int | None:
    """Return the instant of `2026-02-14T00:00:00+08:00` or `-7d`. Raises SettingsError."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return int(time.time()) * SECOND - int(ago[1]) * _UNITS[ago[2]]
    try:
        return parse_instant(text)
    except ValueError as error:
        raise SettingsError(
            [f"{option}: {error}, for example 2026-02-14T00:00:00+08:00, or -7d"]
        ) from None


def range_of(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Return the instants of `--since` and `--until`. Raises SettingsError."""
    begin, end = all_of(lambda: instant_of("--since", since), lambda: instant_of("--until", until))
    if begin is not None and end is not None and begin >= end:
        raise SettingsError(["--until: isn't later than --since, so there is nothing between"])
    return begin, end

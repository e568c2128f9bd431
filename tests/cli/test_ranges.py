"""What `--since` and `--until` take."""

from zoneinfo import ZoneInfo

import pytest

from app.errors import SettingsError
from app.ranges import parse_range
from streams.times import DAY, HOUR, SECOND, parse_instant

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = parse_instant("2026-02-16T12:00:00+08:00")
MIDNIGHT = parse_instant("2026-02-14T00:00:00+08:00")
TEN = parse_instant("2026-02-14T10:00:00+08:00")


def parsed(since: str | None, until: str | None = None) -> tuple[int | None, int | None]:
    return parse_range(since, until, zone=SHANGHAI, now=NOW)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, (None, None)),
        ("-2h", None, (NOW - 2 * HOUR, None)),
        ("-7d", "-1d", (NOW - 7 * DAY, NOW - DAY)),
        ("-1h30m", "end", (NOW - 90 * 60 * SECOND, NOW)),
        ("2026-02-14", "2026-02-14T10:00:00+08:00", (MIDNIGHT, TEN)),
        ("2026-02-14T02:00:00Z", None, (TEN, None)),
        ("2026-02-14", "10h", (MIDNIGHT, TEN)),  # a span is counted from --since
        # rpk's
        ("@2026-02-14:10h", None, (MIDNIGHT, TEN)),
        ("@-48h:-24h", None, (NOW - 2 * DAY, NOW - DAY)),
        ("@-1m:end", None, (NOW - 60 * SECOND, NOW)),
        ("@2026-02-14T10:00:00+08:00:1h", None, (TEN, TEN + HOUR)),
        ("@2026-02-14:2026-02-14T10:00:00+08:00", None, (MIDNIGHT, TEN)),
        ("@-48h", None, (NOW - 2 * DAY, None)),
        (f"@{TEN // 1000}:end", None, (TEN, NOW)),
        (f"@{TEN // SECOND}", None, (TEN, None)),
        ("@start:-24h", None, (0, NOW - DAY)),
    ],
)
def test_a_range_is_two_instants(
    since: str | None, until: str | None, expected: tuple[int | None, int | None]
) -> None:
    assert parsed(since, until) == expected


@pytest.mark.parametrize(
    ("since", "until", "options"),
    [
        ("yesterday", None, ["--since"]),
        ("2026-02-14T10:00:00", None, ["--since"]),  # no zone
        ("2026-02-30", None, ["--since"]),
        ("-999999999w", None, ["--since"]),
        ("1h", None, ["--since"]),  # from where?
        ("x", "y", ["--since", "--until"]),
        ("-1d", "-2d", ["--since"]),  # turned round
        ("-1d", "-1d", ["--since"]),
        ("@-24h:-48h", None, ["--since"]),
        ("@-48h:-24h", "end", ["--until"]),
        ("@a:b:c", None, ["--since"]),
        ("", None, ["--since"]),
    ],
)
def test_what_is_no_range_is_a_line_for_each_option(
    since: str | None, until: str | None, options: list[str]
) -> None:
    with pytest.raises(SettingsError) as raised:
        parsed(since, until)
    assert [line.partition(":")[0] for line in raised.value.lines] == options

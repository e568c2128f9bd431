"""The counts of a summary."""

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from app.analysis.commands import ToldCommand
from app.analysis.refold import ALL
from app.analysis.report import _filled
from app.analysis.summary import COLUMNS, Summary
from app.analysis.variants import Variant
from app.commands.export import _day_of


def test_accounts_are_counted_by_scenario_and_channel_each_once() -> None:
    counts = Summary([Variant(50, 24.0), Variant(100, 24.0)])
    for variant, account, channel in (
        (ALL, "one", "inbox"),
        (ALL, "one", "inbox"),
        (0, "one", "inbox"),
        (0, "two", "inbox"),
        (1, "three", "sms"),
    ):
        counts.add(
            variant,
            ToldCommand("id", "low_balance", account, channel, "2026-11-24T09:00:00+08:00"),
        )
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in counts.rows()]
    assert [
        (row["run_length"], row["channel"], row["notifications"], row["accounts"])
        for row in rows
        if row["of"] == "scenario"
    ] == [(50, "inbox", 4, 2), (100, "inbox", 2, 1), (100, "sms", 1, 1)]


def test_a_chart_may_reach_the_calendar_s_end() -> None:
    assert _filled(["9999-12-29", "9999-12-31"]) == ["9999-12-29", "9999-12-30", "9999-12-31"]
    assert _filled(["2026-02-14T22", "2026-02-15T01"])[1:3] == ["2026-02-14T23", "2026-02-15T00"]


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/St_Johns", "UTC"])
def test_every_timestamp_lies_in_a_day_that_has_a_name(zone: str) -> None:
    last = 253_402_300_800_000  # the year 10000
    for timestamp in (-(1 << 63), -62_135_596_800_001, -1, 0, last - 1, last, (1 << 63) - 1):
        day, begin, end = _day_of(timestamp, ZoneInfo(zone))
        assert begin <= timestamp < end
        assert "0001-01-01" <= day <= "9999-12-31"
    assert _day_of(last, ZoneInfo(zone))[0] == "9999-12-31"
    assert _day_of(86_400_000, UTC) == ("1970-01-02", 86_400_000, 2 * 86_400_000)

"""The counts of a summary."""

from app.analysis.commands import ToldCommand
from app.analysis.refold import ALL
from app.analysis.report import _filled
from app.analysis.summary import COLUMNS, Summary
from app.analysis.variants import Variant


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

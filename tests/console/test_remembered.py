"""What the console says of accounts and lines that need more than one value of the state, beside
what the rules' own state says."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.console.index import Index, PolledRecords
from app.console.views import Views
from app.operations.explain import describe
from app.operations.state import describe_line
from app.settings import Settings, load_settings
from streams.engine.state import State
from streams.times import DAY, parse_instant
from streams.topics import Topics, partition_of
from tables import lines
from tables.accounts import fold_recharge
from tables.batches import Batch, batch_key
from tables.clocks import latest_tick
from tables.explanations import Outside
from tables.line_accounts import MOST_BESIDE_RUN, put_aside
from tables.lines import LineCall, LineRun, LineSegment
from tables.recharges import MOST_IN_FIRST
from tables.remembered import line_of, remembered_of
from tables.state_tables import BATCHES, CLOCKS, LINE_ACCOUNTS, LINES, PartitionClock
from tests.console.test_index import NOW, Record

PARTITIONS = 2
LENGTH = 5_000


class Watched:
    """An index, the views of it, and the states that the workers would have."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.index = Index(settings)
        followed: Any = SimpleNamespace(
            topics=Topics(settings.topic_prefix, settings.group, PARTITIONS)
        )
        lookups: Any = None
        self.views = Views(settings, followed, lookups)
        self.states = [State(number) for number in range(PARTITIONS)]

    def state_of(self, key: bytes) -> State:
        return self.states[partition_of(key, PARTITIONS)]

    def commit(self) -> None:
        """Let the console index what the states' cycles have changed."""
        for state in self.states:
            records = [Record(0, value, key) for key, value, _ in state.seal()]
            self.index.write([PolledRecords("state", "state", state.partition, records)], {})
            state.apply()

    def fail(self, line_id: str, accounts: list[str]) -> None:
        """Fold a segment of a line's errors, one call of each account."""
        key = line_id.encode()
        state = self.state_of(key)
        line = state.get_or_put(LINES, key, LineRun)
        calls = [LineCall(f"call-{number}", one, NOW) for number, one in enumerate(accounts)]
        assert not lines.fold(line, LineSegment(line_id, [*calls]), length=LENGTH, window=DAY)
        put_aside(state, key, line)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    settings = load_settings(
        console_datadir=tmp_path, run_length=LENGTH, redis_url="redis://127.0.0.1:1/0"
    )
    made = Watched(settings)
    yield made
    made.views.close()
    made.index.close()


async def test_all_accounts_of_a_long_run_are_listed_and_counted(watched: Watched) -> None:
    names = [f"account-{number}" for number in range(600)]
    for first in range(0, 600, 100):
        watched.fail("L", names[first : first + 100])
    watched.fail("L", names[:5])  # once more: nobody is counted twice
    watched.fail("L0", ["another"])
    watched.commit()
    state = watched.state_of(b"L")
    line = line_of(state, b"L", run_retention=watched.settings.rules.run_retention)
    kept = state.peek(LINES, b"L")
    assert line is not None
    assert kept is not None
    assert (kept.pages, len(line.accounts)) == (2, 600)
    found = await watched.views.line("L")
    assert found == {"state": describe_line(watched.settings, "L", state.partition, line)}
    shown = (await watched.views.runs(limit=9, before=None))["items"]
    assert [(one["line_id"], one["count"], one["accounts"]) for one in shown] == [
        ("L", 605, 600),
        ("L0", 1, 1),
    ]


async def test_pages_of_lines_that_are_not_shown_are_not_read(watched: Watched) -> None:
    length = MOST_BESIDE_RUN + 1
    for name, count in (("longest", length + 2), ("forgotten", length + 1), ("other", length)):
        watched.fail(name, [f"{name}-{number}" for number in range(count)])
    gone = watched.state_of(b"forgotten").get(LINES, b"forgotten")
    assert gone is not None
    gone.run.tick = 1
    for state in watched.states:
        state.put(CLOCKS, b"", PartitionClock(tick=NOW))
    watched.commit()
    unreadable = [
        PolledRecords(
            "state", "state", watched.state_of(name).partition,
            [Record(0, b"\xc1", LINE_ACCOUNTS.prefix + name + bytes(4))],
        )
        for name in (b"forgotten", b"other")
    ]  # fmt: skip
    watched.index.write(unreadable, {})
    page = await watched.views.runs(limit=2, before=None)
    assert [(one["line_id"], one["accounts"]) for one in page["items"]] == [("longest", length + 2)]
    assert page["next"] is not None


async def test_every_recharge_of_an_account_counts(watched: Watched) -> None:
    state, count = watched.state_of(b"acme"), MOST_IN_FIRST + 300
    for number in range(count):
        assert fold_recharge(state, b"acme", f"r{number}")
    assert fold_recharge(state, b"acme0", "r")
    watched.commit()
    rules = watched.settings.rules
    known = remembered_of(
        state, b"acme", batch_retention=rules.batch_retention, run_retention=rules.run_retention
    )
    assert latest_tick(state) == known.tick
    found = await watched.views.account("acme")
    assert found is not None
    said = {one["scenario"]: one for one in found["explain"]}
    assert said["recharge_received"]["stands"] == count
    assert found["explain"] == describe(
        watched.settings, known, Outside([], None, None, None), "en"
    )


async def test_batches_of_every_year_are_listed_and_nobody_else_s(watched: Watched) -> None:
    """An instant's first byte changes with the year, and an id may go on with such a byte."""
    years = ("0001-01-01", "1969-12-31", "1970-01-01", "2019-01-30", "4253-06-01", "9999-12-31")
    state = watched.state_of(b"acme")
    for year in years:
        submitted = parse_instant(f"{year}T12:00:00+08:00")
        state.put(BATCHES, batch_key(b"acme", submitted), Batch(10, seen=4))
        for other in (b"ac", b"acme0", b"acme\x00", b"acme\x01x", b"acme\x03yyyyyyyy"):
            state.put(BATCHES, batch_key(other, submitted), Batch(20, seen=4))
    watched.commit()
    found = await watched.views.account("acme")
    assert found is not None
    shown = [(one["submitted_at"][:10], one["batch_size"]) for one in found["state"]["batches"]]
    assert shown == [(year, 10) for year in years]
    every = watched.views._queries.values_numbered(state.partition, b"bacme")
    assert len(every) == len(years)

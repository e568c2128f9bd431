"""Each table is declared to Faust: name, changelog, window, what it shows. Nobody writes it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.settings import load_settings
from streams.engine import outbox, positions
from streams.engine.state import State, Table
from streams.engine.table_views import StateTable, StrayWriteError
from tables import state_tables
from tables.lines import LineRun
from tables.runs import Run
from tests.engine.declared import Declared

DAY, HOUR = 86_400.0, 3_600.0
COUNTED_BY_RUNS = {"tallies", "lines", "line-accounts"}
COUNTED_BY_BATCHES = {"batches", "batches-listed", "batch-pages"}


async def test_every_table_is_declared_with_the_one_changelog() -> None:
    declared = Declared()
    tables: dict[str, StateTable] = dict(declared.app.tables)
    kinds = [
        kind
        for module in (state_tables, positions, outbox)
        for kind in vars(module).values()
        if isinstance(kind, Table)
    ]
    assert sorted(table.kind.prefix for table in tables.values()) == sorted(
        kind.prefix for kind in kinds
    )
    assert {table.changelog_topic_name for table in tables.values()} == {"g-state-changelog"}
    assert all(table.help.endswith(".") for table in tables.values())
    assert all(table.partitions == 4 for table in tables.values())
    assert tables["lines"].value_type is LineRun


async def test_faust_has_nothing_to_subscribe_to_assign_or_recover() -> None:
    tables = Declared().app.tables
    assert tables.changelog_topics == set()
    assert not tables.recovery.tables


@pytest.mark.parametrize(
    ("variables", "run", "kept"),
    [
        # A run is remembered for as long as a call may still go on with it, however late.
        ({}, DAY, 367 * DAY),
        ({"run_window_hours": "72", "batch_retention_days": "2"}, 3 * DAY, 369 * DAY),
    ],
)
async def test_windows_are_those_of_the_settings(
    variables: dict[str, str], run: float, kept: float
) -> None:
    settings = load_settings(**variables)
    rules = settings.rules
    tables = Declared(rules=rules).app.tables
    batch = settings.batch_retention_days * DAY
    for name, table in tables.items():
        if name in COUNTED_BY_RUNS:
            window = table.window
            assert (window.before, window.after, window.expires) == (run, 0.0, kept)
        elif name in COUNTED_BY_BATCHES:
            window = table.window
            assert (window.before, window.after, window.expires) == (batch, 0.0, batch)
        else:
            assert table.window is None


@pytest.fixture
async def lines() -> StateTable:
    """The table of lines, with one committed."""
    declared = Declared()
    state = State(0)
    declared.engine.states = {0: state}
    state.put(state_tables.LINES, b"line-1", LineRun(Run(count=3)))
    state.seal()
    state.apply()
    table: StateTable = declared.app.tables["lines"]
    return table


async def test_a_table_shows_copies_of_what_is_committed(lines: StateTable) -> None:
    assert dict(lines) == {b"line-1": LineRun(Run(count=3))}
    assert (len(lines), b"line-1" in lines, b"line-2" in lines) == (1, True, False)
    assert lines.get(b"line-2") is None
    with pytest.raises(KeyError):
        lines[b"line-2"]
    lines[b"line-1"].run.count = 99  # nobody's but the reader's
    assert lines[b"line-1"].run.count == 3


async def test_a_table_does_not_show_what_may_be_rolled_back() -> None:
    declared, state = Declared(), State(0)
    declared.engine.states = {0: state}
    table = declared.app.tables["lines"]
    state.put(state_tables.LINES, b"line-1", LineRun(Run(count=3)))
    assert (len(table), table.get(b"line-1")) == (0, None)
    state.seal()
    assert (len(table), table.get(b"line-1")) == (0, None)
    state.apply()
    assert len(table) == 1


def augmented(mapping: Any) -> None:
    mapping |= {b"line-1": LineRun()}


WRITES: dict[str, Callable[[Any], Any]] = {
    "t[k] = v": lambda t: t.__setitem__(b"line-1", LineRun()),
    "del t[k]": lambda t: t.__delitem__(b"line-1"),
    "t |= m": augmented,
    "update": lambda t: t.update({b"line-1": LineRun()}),
    "update with nothing": lambda t: t.update({}),
    "raw_update": lambda t: t.raw_update({b"line-1": LineRun()}),
    "setdefault": lambda t: t.setdefault(b"line-2", LineRun()),
    "setdefault of what is there": lambda t: t.setdefault(b"line-1", LineRun()),
    "pop": lambda t: t.pop(b"line-1"),
    "popitem": lambda t: t.popitem(),
    "clear": lambda t: t.clear(),
    "reset_state": lambda t: t.reset_state(),
    "apply_changelog_batch": lambda t: t.apply_changelog_batch([]),
}
OF_TABLES: dict[str, Callable[[Any], Any]] = {
    "on_key_set": lambda t: t.on_key_set(b"line-1", LineRun()),
    "on_key_del": lambda t: t.on_key_del(b"line-1"),
    "on_clear": lambda t: t.on_clear(),
    "send_changelog": lambda t: t.send_changelog(0, b"line-1", b""),
    "_set_key": lambda t: t._set_key(b"line-1", LineRun()),
    "_del_key": lambda t: t._del_key(b"line-1"),
    "a window's write": lambda t: t._set_windowed(b"line-1", LineRun(), 0.0),
    "a window's delete": lambda t: t._del_windowed(b"line-1", 0.0),
}
OF_STORES: dict[str, Callable[[Any], Any]] = {
    "backup_partition": lambda t: t.backup_partition(0),
    "restore_backup": lambda t: t.restore_backup(0),
}


@pytest.mark.parametrize("write", [*WRITES.values(), *OF_TABLES.values()])
async def test_a_stray_write_to_a_table_raises(
    lines: StateTable, write: Callable[[Any], Any]
) -> None:
    with pytest.raises(StrayWriteError, match="table lines is the engine's: a fold changes it"):
        write(lines)
    assert dict(lines) == {b"line-1": LineRun(Run(count=3))}


@pytest.mark.parametrize("write", [*WRITES.values(), *OF_STORES.values()])
async def test_a_stray_write_to_a_table_s_store_raises(
    lines: StateTable, write: Callable[[Any], Any]
) -> None:
    with pytest.raises(StrayWriteError, match="table lines is the engine's: a fold changes it"):
        write(lines.data)
    assert dict(lines) == {b"line-1": LineRun(Run(count=3))}


async def test_a_window_is_no_way_to_write(lines: StateTable) -> None:
    assert lines.tumbling(10) is lines  # stock Faust would return what writes, and rename
    assert lines.changelog_topic_name == "g-state-changelog"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("agents", ["@calls", "call-records", "Counts the errors in a row of each line."]),
        ("tables", ["tallies", "Each account's run, latest batch and balance."]),
    ],
)
def test_faust_s_own_commands_list_them(tmp_path: Path, command: str, named: list[str]) -> None:
    faust = Path(sys.executable).with_name("faust")
    listed = subprocess.run(
        [str(faust), "--json", "-A", "app.main", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    for name in named:
        assert name in listed.stdout

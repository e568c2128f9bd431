"""Clean-up: each tick checks a part of the state and deletes what is over.

No result depends on when that happens: rules ignore a batch or run that is over, deleted or not.
Each key is checked about once an hour, in equal parts by the ticks of that hour.
"""

from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from agents.rules import Rules
from streams.engine.state import State, Table
from streams.times import HOUR
from tables import runs
from tables.accounts import Remains, forget_batch_if_over, forget_what_is_over, seen_by_a_tick
from tables.clocks import clock_of
from tables.line_accounts import forget_line
from tables.state_tables import BATCHES, LINES, TALLIES

_ROUND = "sweep"
_SWEPT: tuple[Table[Any], ...] = (TALLIES, BATCHES, LINES)
_MOST_KEYS = 10_000


@dataclass
class _Round:
    """The keys left to check in this round, and how many there were."""

    waiting: list[tuple[Table[Any], bytes]]
    size: int


def sweep(state: State, rules: Rules, passed: int) -> None:
    """Delete what is over at the latest tick among the next keys. `passed`: microseconds since the
    tick before."""
    now: _Round | None = state.derived.get(_ROUND)
    if now is None or not now.waiting:
        waiting = [(table, key) for table in _SWEPT for key in state.keys(table)]
        now = state.derived[_ROUND] = _Round(waiting, len(waiting))
    clock = clock_of(state)
    share = -(-now.size * min(passed, HOUR) // HOUR)
    remains = Remains()
    for _ in range(min(share, _MOST_KEYS, len(now.waiting))):
        table, key = now.waiting.pop()
        if table is TALLIES:
            forget_what_is_over(
                state, key, clock, rules.batch_retention, rules.run_retention, remains
            )
        elif table is BATCHES:
            forget_batch_if_over(state, key, clock, rules.batch_retention, remains)
        else:
            _look_at_line(state, rules, key, clock.tick)
    remains.forget(state)


def _look_at_line(state: State, rules: Rules, key: bytes, tick: int) -> None:
    line = state.peek(LINES, key)
    if line is None:
        return
    if runs.is_forgotten(line.run, tick, rules.run_retention):
        forget_line(state, key, line)
    elif not line.run.tick:
        state.put(LINES, key, replace(line, run=seen_by_a_tick(line.run, tick)))

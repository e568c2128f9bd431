"""A partition's clock: the latest tick, and which ticks count."""

from streams.engine.state import State
from streams.times import DAY
from tables.batches import Clock
from tables.state_tables import CLOCKS, PartitionClock

_MILLISECOND = 1_000
MOST_AHEAD = DAY


def latest_tick(state: State) -> int:
    """Return the latest tick a partition has seen, 0: none."""
    return clock_of(state).tick


def clock_of(state: State) -> Clock:
    """Return how far a partition's ticks have come."""
    clock = state.peek(CLOCKS, b"")
    return Clock() if clock is None else Clock(clock.tick, clock.tick + clock.repeats)


def is_ahead(tick: int, timestamp: int) -> bool:
    """Is an instant too far after a record's own timestamp (ms; below 0: it has none)?"""
    return timestamp >= 0 and tick - timestamp * _MILLISECOND > MOST_AHEAD


def fold(state: State, tick: int, timestamp: int) -> int | None:
    """Advance the clock to a tick. Return the microseconds since the latest (0: a repeat); None:
    the tick is older and changes nothing.

    `timestamp`: of its record. 0.1.0 took ticks of any day: what it remembers of a day that is
    still to come counts for nothing, or there would be no time until then.
    """
    clock = state.get(CLOCKS, b"") or PartitionClock()
    if not clock.is_checked and is_ahead(clock.tick, timestamp):
        clock.tick = clock.repeats = 0
    if tick < clock.tick:
        return None
    mark = max(tick, clock.tick + clock.repeats + 1)
    passed, clock.tick, clock.is_checked = tick - clock.tick, tick, True
    clock.repeats = mark - tick
    state.put(CLOCKS, b"", clock)
    return passed

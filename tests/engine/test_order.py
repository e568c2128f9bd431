"""Which record of a partition is folded next: in any order of arrival, the same order of time."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine.order import FOREVER, UNKNOWN, next_of, turn_of
from streams.engine.types import Chunk, Source


def fold(_: Chunk) -> None:
    pass


ACCOUNTS = Source("accounts", fold, order=0)
RECHARGES = Source("recharges", fold, order=1, is_timed=True)
CALLS = Source("calls", fold, order=2, is_timed=True)
TICKS = Source("ticks", fold, order=4, is_clock=True)
FAN_OUTS = Source("fan-outs", fold, order=6)
SOURCES = (ACCOUNTS, RECHARGES, CALLS, TICKS, FAN_OUTS)


@dataclass(eq=False)
class Queue:
    """A source's records, of which some have arrived."""

    source: Source
    arrived: deque[int] = field(default_factory=deque)
    coming: deque[int] = field(default_factory=deque)

    @property
    def at(self) -> int | None:
        return self.arrived[0] if self.arrived else None

    def more_from(self) -> int:
        return UNKNOWN if self.coming else FOREVER


def queue(source: Source, *arrived: int, is_read_up: bool = True) -> Queue:
    return Queue(source, deque(arrived), deque() if is_read_up else deque([0]))


@pytest.mark.parametrize(
    ("who", "others", "until"),
    [
        # A free source never waits.
        (queue(ACCOUNTS, 5), [queue(TICKS, 1)], FOREVER),
        (queue(FAN_OUTS, 5), [queue(CALLS, 1), queue(ACCOUNTS, 1)], FOREVER),
        # A timed one goes up to what is due of the others, in the sources' order within a ms.
        (queue(CALLS, 5), [queue(RECHARGES, 8), queue(TICKS, 9)], 7),
        (queue(CALLS, 5), [queue(RECHARGES, 9), queue(TICKS, 8)], 8),
        (queue(CALLS, 5), [queue(RECHARGES, 5)], None),
        (queue(CALLS, 5), [queue(TICKS, 5)], 5),
        (queue(CALLS, 5), [queue(ACCOUNTS, 1), queue(FAN_OUTS, 1)], FOREVER),
        # What nobody has read yet may be older.
        (queue(CALLS, 5), [queue(TICKS, is_read_up=False)], None),
        (queue(CALLS, 5), [queue(TICKS)], FOREVER),
        # A clock waits also for what is free and goes first, but not for what goes after it.
        (queue(TICKS, 5), [queue(ACCOUNTS, 4)], None),
        (queue(TICKS, 5), [queue(ACCOUNTS, 5)], None),
        (queue(TICKS, 5), [queue(ACCOUNTS, 7)], 6),
        (queue(TICKS, 5), [queue(ACCOUNTS, is_read_up=False)], None),
        (queue(TICKS, 5), [queue(FAN_OUTS, 1)], FOREVER),
        # A record without a timestamp (-1) is older than any, and as exact as any.
        (queue(CALLS, -1), [queue(TICKS, is_read_up=False)], None),
        (queue(CALLS, -1), [queue(TICKS, 3)], 3),
        (queue(CALLS), [], None),
    ],
)
def test_whose_turn_it_is(who: Queue, others: list[Queue], until: int | None) -> None:
    assert turn_of(who, [who, *others]) == until


def test_next_is_the_oldest_that_may_be_folded() -> None:
    calls, ticks, accounts = queue(CALLS, 3), queue(TICKS, 2), queue(ACCOUNTS, 7)
    assert next_of([calls, ticks, accounts]) == (ticks, 2)  # the call of 3 is due after it
    unread = queue(RECHARGES, is_read_up=False)
    assert next_of([calls, ticks, accounts, unread]) == (accounts, FOREVER)
    assert next_of([calls, ticks, unread]) is None


Logs = dict[Source, list[int]]
logs = st.fixed_dictionaries(
    {source: st.lists(st.integers(-1, 12), max_size=8) for source in SOURCES}
)


def folded(contents: Logs, arrivals: list[tuple[Source, int]], most: int) -> list[tuple[int, int]]:
    """Let records arrive in these portions, fold up to `most` whenever it is somebody's turn;
    return (timestamp, order) as they were folded."""
    queues = {source: Queue(source, coming=deque(those)) for source, those in contents.items()}
    seen: list[tuple[int, int]] = []
    rest = [(source, len(those)) for source, those in contents.items()]
    for source, count in [*arrivals, *rest]:
        one = queues[source]
        for _ in range(min(count, len(one.coming))):
            one.arrived.append(one.coming.popleft())
        while turn := next_of(list(queues.values())):
            head, until = turn
            taken = [head.arrived.popleft()]
            while head.arrived and head.arrived[0] <= until and len(taken) < most:
                taken.append(head.arrived.popleft())
            seen += [(at, head.source.order) for at in taken]
    assert not any(one.arrived for one in queues.values())
    return seen


portions = st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, 5)), max_size=12)


@given(logs, portions, st.integers(1, 5))
def test_however_records_arrive_time_passes_in_one_order(
    contents: Logs, arrivals: list[tuple[Source, int]], most: int
) -> None:
    in_time = {source: sorted(those) for source, those in contents.items()}
    seen = folded(in_time, arrivals, most)

    ordered = {RECHARGES.order, CALLS.order, TICKS.order}
    assert [one for one in seen if one[1] in ordered] == sorted(
        (at, source.order)
        for source, those in in_time.items()
        for at in those
        if source.order in ordered
    )
    for number, (at, order) in enumerate(seen):
        if order == TICKS.order:
            later = seen[number:]
            assert not [one for one in later if one[1] == ACCOUNTS.order and one[0] <= at]


@given(logs, portions, st.integers(1, 5))
def test_timestamps_that_go_backwards_stop_nothing(
    contents: Logs, arrivals: list[tuple[Source, int]], most: int
) -> None:
    seen = folded(contents, arrivals, most)
    for source, those in contents.items():
        assert [at for at, order in seen if order == source.order] == those

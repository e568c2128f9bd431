"""Which records of an outbox are unfinished: after a crash those are begun again, and no others."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine.outbox import UNFINISHED, Window, _Unfinished
from streams.engine.state import State
from tests.engine.alone import Read

KEY = b"outbox"


def read(offsets: Iterable[int]) -> list[Any]:
    return [Read(offset, 1, b"k", b"v") for offset in offsets]


def begun(window: Window, *offsets: int) -> list[int]:
    return [record.offset for record in window.begin(read(offsets))]


def commit(window: Window, state: State, read_to: int | None = None) -> int:
    offset = window.settle(read_to)
    state.seal()
    state.apply()
    return offset


def unfinished(state: State) -> tuple[int, list[int]] | None:
    found = state.peek(UNFINISHED, KEY)
    return None if found is None else (found.last, found.offsets)


def test_the_first_unfinished_record_is_committed_and_the_later_ones_remembered() -> None:
    state = State(0)
    window = Window(state, "outbox", 5)
    assert begun(window, 5, 6, 8, 9) == [5, 6, 8, 9]
    window.finish(6)
    window.finish(9)
    assert not window.is_finished
    assert commit(window, state) == 5
    assert unfinished(state) == (9, [5, 8])
    window.finish(5)
    assert commit(window, state) == 8
    assert unfinished(state) == (9, [8])


def test_the_bytes_of_what_is_unfinished_are_counted_also_of_what_is_begun_again() -> None:
    state = State(0)
    window = Window(state, "outbox", 5)
    begun(window, 5, 6, 7)
    assert window.bytes == 6  # a key and a value of one byte each
    window.finish(6)
    assert window.bytes == 4
    commit(window, state)
    again = Window(state, "outbox", 5)
    assert again.bytes == 0
    assert begun(again, 5, 6, 7, 8) == [5, 7, 8]
    assert again.bytes == 6
    again.finish(7)
    assert again.bytes == 4


def test_when_all_is_finished_nothing_is_remembered_and_the_markers_are_passed() -> None:
    state = State(0)
    window = Window(state, "outbox", 0)
    begun(window, 0, 1)
    commit(window, state)
    window.finish(0)
    window.finish(1)
    assert window.is_finished
    assert commit(window, state) == 2
    assert unfinished(state) is None
    assert commit(window, state, read_to=4) == 4  # 2 and 3 are markers
    assert commit(window, state, read_to=1) == 2  # never back


def test_after_a_crash_only_what_was_unfinished_is_begun_again() -> None:
    state = State(0)
    window = Window(state, "outbox", 0)
    begun(window, 0, 1, 2, 3)
    window.finish(1)
    window.finish(3)
    committed = commit(window, state)
    again = Window(state, "outbox", committed)
    assert begun(again, 0, 1, 2, 3, 4) == [0, 2, 4]
    assert commit(again, state) == 0
    for offset in (0, 2):
        again.finish(offset)
    assert commit(again, state) == 4


def test_a_crash_before_they_are_read_again_forgets_none() -> None:
    state = State(0)
    window = Window(state, "outbox", 0)
    begun(window, 0, 1, 2)
    window.finish(1)
    committed = commit(window, state)
    again = Window(state, "outbox", committed)
    assert begun(again, 0) == [0]  # 1 and 2 are not read yet
    again.finish(0)
    assert commit(again, state) == 2
    assert unfinished(state) == (2, [2])


def test_offsets_that_somebody_set_forward_are_not_taken_back_by_a_window() -> None:
    state = State(0)
    state.put(UNFINISHED, KEY, _Unfinished(9, [4, 8]))
    window = Window(state, "outbox", 7)  # 4 was skipped by whoever set the offset to 7
    assert window.settle(None) == 8
    window.finish(8)
    assert window.settle(None) == 10


def test_a_record_is_finished_once() -> None:
    window = Window(State(0), "outbox", 0)
    begun(window, 0)
    window.finish(0)
    with pytest.raises(KeyError):
        window.finish(0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.just("finish"), st.integers(0, 20)),
        st.tuples(st.sampled_from(["commit", "crash"]), st.just(0)),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_whatever_crashes_nothing_committed_as_finished_is_begun_again_and_nothing_skipped(
    steps: list[tuple[str, int]],
) -> None:
    state, committed = State(0), 0
    window, position = Window(state, "outbox", 0), 0
    working: list[int] = []
    done: set[int] = set()  # committed as finished
    finished: set[int] = set()  # and those since
    for what, number in steps:
        if what == "read":
            fresh = begun(window, *range(position, position + number))
            assert not done.intersection(fresh)
            working += fresh
            position += number
        elif what == "finish" and working:
            offset = working.pop(number % len(working))
            window.finish(offset)
            finished.add(offset)
        elif what == "commit":
            committed = commit(window, state)
            done |= finished
        elif what == "crash":
            state.discard()
            window, position = Window(state, "outbox", committed), committed
            working, finished = [], set()
    # Everything before the committed offset is done, and what is done and behind it is known.
    assert done >= set(range(committed))
    again = begun(Window(state, "outbox", committed), *range(committed, position + 50))
    assert set(again) == set(range(committed, position + 50)) - done

"""What waits to be folded: each record once, in its order, none younger than was asked for."""

from typing import Any

import pytest

from streams.engine.buffer import Buffer
from streams.engine.order import FOREVER, UNKNOWN
from streams.engine.types import Source
from tests.engine.alone import CALLS, Read


def read(*offsets: int, at: int | None = None) -> list[Any]:
    """Records whose timestamps are their offsets, or all the same."""
    return [Read(offset, offset if at is None else at, b"k") for offset in offsets]


def buffer(position: int = 0, end: int = 1 << 30) -> Buffer:
    """One whose log ends at an offset."""
    return Buffer(CALLS, Source("calls", print), position, lambda tp, offset: offset >= end)


def offsets(records: list[Any]) -> list[int]:
    return [record.offset for record in records]


def test_what_is_added_is_taken_once_and_in_its_order() -> None:
    made = buffer()
    assert (made.add(read(0, 1, 2)), made.add(read(3, 7))) == (3, 2)  # a marker in between
    assert (made.count, made.position, made.at) == (5, 8, 0)
    assert offsets(made.take(4, FOREVER)) == [0, 1, 2, 3]
    assert (made.count, made.at) == (1, 7)
    assert offsets(made.take(4, FOREVER)) == [7]
    assert (made.count, made.at, made.position) == (0, None, 8)


def test_what_was_read_before_a_seek_is_not_added_again() -> None:
    made = buffer(position=2)
    assert made.add(read(0, 1)) == 0
    assert (made.count, made.position) == (0, 2)
    assert made.add(read(1, 2, 3)) == 2
    assert offsets(made.take(9, FOREVER)) == [2, 3]


@pytest.mark.parametrize(
    ("until", "taken"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (9, [0, 1, 2, 3]),
        (-5, [0]),  # one at least: whose successors go back in time stops nobody
    ],
)
def test_none_younger_than_the_limit_is_taken(until: int, taken: list[int]) -> None:
    made = buffer()
    made.add(read(0, 1, 2, 3))
    assert offsets(made.take(9, until)) == taken
    assert made.count == 4 - len(taken)


def test_records_of_one_millisecond_go_together_up_to_the_limit() -> None:
    made = buffer()
    made.add(read(0, 1, 2, at=5) + read(3, at=6))
    assert offsets(made.take(9, 5)) == [0, 1, 2]


def test_what_is_put_back_is_taken_next() -> None:
    made = buffer()
    made.add(read(0, 1, 2))
    made.add(read(3))
    taken = made.take(3, FOREVER)
    made.put_back(taken[1:])
    assert (made.count, made.at) == (3, 1)
    assert offsets(made.take(9, FOREVER)) == [1, 2, 3]


def test_a_long_list_is_taken_in_portions() -> None:
    made = buffer()
    made.add(read(*range(100)))
    seen = [offset for _ in range(34) for offset in offsets(made.take(3, FOREVER))]
    assert (seen, made.count) == (list(range(100)), 0)


def test_an_end_is_passed_also_where_only_a_marker_is_left() -> None:
    made = buffer(position=3, end=3)
    assert made.is_past(4)  # 3 is a marker, and the log is read up
    assert made.more_from() == FOREVER
    unread = buffer(position=3, end=5)
    assert (unread.is_past(3), unread.is_past(4)) == (True, False)
    assert unread.more_from() == UNKNOWN

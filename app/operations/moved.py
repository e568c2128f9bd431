"""The headers by which `topics expand` says of records of `accounts` that it moved them. Pure."""

from collections.abc import Iterator
from typing import Any

from streams.engine.types import TP, Header

MOVED = "dialwatch.moved"
"""Of a tombstone of ours: the account wasn't deleted but moved to another partition."""
_MOVED_FROM = "dialwatch.moved-from"
"""Of a record that was moved: where it lay before, `PARTITION/OFFSET`; one for each time."""


def has_moved(record: Any) -> bool:
    """Is a record only the tombstone where a record lay that was moved?"""
    return record.value is None and any(name == MOVED for name, _ in record.headers)


def is_of_a_move(record: Any) -> bool:
    """Did an expansion write a record, where it was moved from or where it was moved to?"""
    return any(name in (MOVED, _MOVED_FROM) for name, _ in record.headers)


def trail_of(tp: TP, record: Any) -> list[Header]:
    """Return the headers that a record has where it is moved to."""
    before = [(name, value) for name, value in record.headers if name == _MOVED_FROM]
    return [*before, (_MOVED_FROM, b"%d/%d" % (tp.partition, record.offset))]


def places_of(tp: TP, record: Any) -> Iterator[tuple[int, int]]:
    """Yield partition and offset of where a record lies, and of where it lay before."""
    yield tp.partition, record.offset
    for name, value in record.headers:
        if name == _MOVED_FROM:
            partition, _, offset = (value or b"").partition(b"/")
            if partition.isdigit() and offset.isdigit():
                yield int(partition), int(offset)

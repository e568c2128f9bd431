"""Which record of a partition number is folded next: the one rule, used by worker and replay.

Timed sources and clocks are folded in the order of their timestamps (the producers', in ms since
1970). A clock also waits for older records of sources with a lower `order`. All other sources may
be folded at any time, because no other source depends on when (announcements and fan-outs look at
customers only). Pure: no records, buffers or Kafka; heads in, "which one, and up to when" out.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from streams.engine.types import Source

FOREVER = (1 << 63) - 1
"""Later than any timestamp: no limit."""
UNKNOWN = -FOREVER
"""Earlier than any timestamp; a record without one has -1."""


class Head(Protocol):
    """The front of the queue of one source partition."""

    @property
    def source(self) -> Source:
        """The source, which has `order`, `is_timed` and `is_clock`."""

    @property
    def at(self) -> int | None:
        """The timestamp (ms) of the first record that waits; None: none waits."""

    def more_from(self) -> int:
        """The earliest timestamp that the next record may have: `FOREVER` where the log has ended,
        else `UNKNOWN`. Asked only while no record waits."""


H = TypeVar("H", bound=Head)


def turn_of(head: H, heads: Iterable[H]) -> int | None:
    """Return the timestamp up to which a head's records may be folded now; None: none yet.

    `heads`: all heads of the same partition number; `head` may be among them. Up to the returned
    limit no record of theirs must be folded before. If the first record may be folded at all, it
    may be folded alone, even where the following timestamps go backwards.
    """
    source, at = head.source, head.at
    if at is None:
        return None
    until = FOREVER
    if not (source.is_timed or source.is_clock):
        return until
    for other in heads:
        theirs = other.source
        if other is head or not _goes_before(theirs, source):
            continue
        begins = other.at
        if begins is None:
            begins = other.more_from()
        # Within one millisecond the sources' `order` decides.
        if theirs.order < source.order:
            begins -= 1
        if begins < at:
            return None
        until = min(until, begins)
    return until


def next_of(heads: Sequence[H]) -> tuple[H, int] | None:
    """Return the head with the oldest record that may be folded, and the timestamp up to which it
    may go on; None: no record may be folded."""
    oldest = sorted(
        (head for head in heads if head.at is not None),
        key=lambda head: (head.at, head.source.order),
    )
    for head in oldest:
        until = turn_of(head, heads)
        if until is not None:
            return head, until
    return None


def _goes_before(other: Source, source: Source) -> bool:
    """Must `source` wait for older records of `other`?"""
    if other.is_timed or other.is_clock:
        return True
    return source.is_clock and other.order < source.order

"""Which record of a partition is folded next: the one rule of order, for whoever folds.

Timestamps are the producers' (ms since 1970) and order only what they must: timed sources and
clocks among each other, and a clock after all that is older and goes before it. A free source goes
whenever it likes: nothing that others remember depends on when (announcements and fan-outs look at
customers only). No records, no buffers, no Kafka: heads in, "who, and up to when" out.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from streams.engine.types import Source

FOREVER = (1 << 63) - 1
"""Later than any timestamp: no limit."""
UNKNOWN = -FOREVER
"""Earlier than any timestamp, -1 included, which records have that were given none."""


class Head(Protocol):
    """The front of one source's queue, in one partition."""

    @property
    def source(self) -> Source:
        """Whose order and kind it has."""

    @property
    def at(self) -> int | None:
        """Timestamp of the oldest record that waits, None: none waits."""

    def more_from(self) -> int:
        """From which timestamp on more may come, asked while none waits: `UNKNOWN`, or
        `FOREVER` where the log has ended."""


H = TypeVar("H", bound=Head)


def turn_of(head: H, heads: Iterable[H]) -> int | None:
    """Return up to which timestamp a head's records may be folded now; None: not one of them yet.

    `heads`: of the same partition, itself among them or not. Up to the limit nothing of theirs can
    go before; a record that waits may always be folded alone, so that one whose successors'
    timestamps go backwards stops nobody.
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
        # Of one millisecond, the sources' order decides.
        if theirs.order < source.order:
            begins -= 1
        if begins < at:
            return None
        until = min(until, begins)
    return until


def next_of(heads: Sequence[H]) -> tuple[H, int] | None:
    """Return whose record is the oldest of those that may be folded, and up to which timestamp
    that source may go on; None: nobody has one."""
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
    """Does a source wait for what is older of another one?"""
    if other.is_timed or other.is_clock:
        return True
    return source.is_clock and other.order < source.order

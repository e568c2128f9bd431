"""Outboxes: topics whose records are worked off over HTTP, so that they finish in any order.

A finished record is committed with the cycle in which it finished, together with what it emits.
For each partition the offset of the first unfinished record is committed; the state holds which
later ones are unfinished too. After a crash only the unfinished ones are begun again.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from streams.engine.state import State, Table
from streams.engine.types import Crash, Header, Output, Record


class OutboxRecord(NamedTuple):
    """One record of an outbox: a command to send."""

    offset: int
    key: bytes | None
    value: bytes
    headers: Sequence[Header] = ()


Finish = Callable[[int, int, list[Output]], None]
"""Called with (partition, offset, outputs) when a record is done; `outputs` is what it emits."""


class Outbox(Protocol):
    """Works off the records of one topic: a sender."""

    topic: str
    max_pending: int
    """The engine stops reading a partition that has more begun and unfinished records than this."""

    def bind(self, finish: Finish, crash: Crash) -> None:
        """Take the function to be called exactly once for every record that is done, and the one
        that stops the worker where a bug ends the work on some."""

    def on_assigned(self, partition: int) -> None:
        """Be told that records of this partition may come from now on."""

    def take(self, partition: int, records: Sequence[OutboxRecord]) -> None:
        """Begin work on records, in their order. Doesn't block."""

    def pending(self, partition: int) -> int:
        """Return how many records of a partition are begun and not finished."""

    async def on_revoked(self, partitions: Collection[int]) -> None:
        """Stop working on these partitions, within bounded time. The next owner begins again what
        was not finished."""


class _Unfinished(Struct, array_like=True):
    """The offsets up to and including `last` that are not finished."""

    last: int
    offsets: list[int]


# One table for all outboxes: the key is the topic.
UNFINISHED = Table(b"u", _Unfinished)


class Window:
    """Keeps track of the unfinished records of one outbox partition."""

    def __init__(self, state: State, topic: str, committed: int) -> None:
        """`committed`: the group's offset, at which reading starts."""
        self._state = state
        self._key = topic.encode()
        self._next = committed
        remembered = state.peek(UNFINISHED, self._key)
        self._skip_to = remembered.last if remembered else -1
        # Older ones remain when somebody set the group's offsets by hand: they are never read.
        self._again = (
            {offset for offset in remembered.offsets if offset >= committed}
            if remembered
            else set()
        )
        # A dict keeps the order of offsets: the first key is the oldest. With each its bytes.
        self._unfinished = dict.fromkeys(sorted(self._again), 0)
        self.bytes = 0
        """How many bytes the keys and values of the begun and unfinished records have."""

    def begin(self, records: Sequence[Record]) -> list[OutboxRecord]:
        """Note records that were read; return those to be worked off."""
        begun = []
        for record in records:
            offset = record.offset
            if offset <= self._skip_to and offset not in self._again:
                continue
            self._unfinished[offset] = len(record.key or b"") + len(record.value or b"")
            self.bytes += self._unfinished[offset]
            begun.append(OutboxRecord(offset, record.key, record.value or b"", record.headers))
        self._next = max(self._next, records[-1].offset + 1)
        return begun

    def finish(self, offset: int) -> None:
        """Note that a record is done."""
        self.bytes -= self._unfinished.pop(offset)

    @property
    def is_finished(self) -> bool:
        """Is every record that was begun done?"""
        return not self._unfinished

    def settle(self, read_to: int | None) -> int:
        """Write what is unfinished into the state; return the offset to commit. Call it before the
        state is sealed.

        `read_to`: the offset up to which the log was read, past markers behind the last record.
        """
        first = next(iter(self._unfinished), None)
        last = max(self._next - 1, self._skip_to)
        if first is None:
            self._state.delete(UNFINISHED, self._key)
            return max(last + 1, read_to or 0)
        self._state.put(UNFINISHED, self._key, _Unfinished(last, list(self._unfinished)))
        return first

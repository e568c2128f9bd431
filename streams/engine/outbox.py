"""Sources whose work can't be folded, because it is HTTP: begun at once, finished in any order.

What is finished is committed with the cycle it finishes in, together with what came out of it.
Of each partition the offset of the first unfinished record is committed, and beside it, in the
state, which later ones are unfinished too: after a crash only those are begun again.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from streams.engine.state import State, Table
from streams.engine.types import Output, Record


class OutboxRecord(NamedTuple):
    """One command to work off."""

    offset: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


Finish = Callable[[int, int, list[Output]], None]
"""(partition, offset, outputs): the record is done and these come out of it."""


class Outbox(Protocol):
    """What works off the records of one topic."""

    topic: str
    max_pending: int
    """Begun and unfinished records of one partition above which the engine stops reading it."""

    def bind(self, finish: Finish) -> None:
        """Take what is to be called once for every record that is done."""

    def on_assigned(self, partition: int) -> None:
        """A partition's records will come."""

    def take(self, partition: int, records: Sequence[OutboxRecord]) -> None:
        """Begin work on records, in their order. Returns at once."""

    def pending(self, partition: int) -> int:
        """How many records of a partition are begun and not finished."""

    async def on_revoked(self, partitions: Collection[int]) -> None:
        """Stop working on partitions. Bounded; what is cut off is begun again elsewhere."""


class _Unfinished(Struct, array_like=True):
    """Offsets below or at `last` that are not finished."""

    last: int
    offsets: list[int]


# One table for all outboxes: the key is the topic.
UNFINISHED = Table(b"u", _Unfinished)


class Window:
    """Which records of one partition of an outbox are unfinished."""

    def __init__(self, state: State, topic: str, committed: int) -> None:
        """`committed`: the offset reading starts at."""
        self._state = state
        self._key = topic.encode()
        self._next = committed
        remembered = state.peek(UNFINISHED, self._key)
        self._skip_to = remembered.last if remembered else -1
        # Older ones are there when somebody set the group's offsets: nobody reads them any more.
        self._again = (
            {offset for offset in remembered.offsets if offset >= committed}
            if remembered
            else set()
        )
        # A dict keeps the order of offsets: the first key is the oldest.
        self._unfinished: dict[int, None] = dict.fromkeys(sorted(self._again))

    def begin(self, records: Sequence[Record]) -> list[OutboxRecord]:
        """Return which of the records read are to be worked off."""
        begun = []
        for record in records:
            offset = record.offset
            if offset <= self._skip_to:
                if offset not in self._again:
                    continue
            else:
                self._unfinished[offset] = None
            begun.append(OutboxRecord(offset, record.key, record.value or b"", record.headers))
        self._next = max(self._next, records[-1].offset + 1)
        return begun

    def finish(self, offset: int) -> None:
        """Remember that a record is done."""
        del self._unfinished[offset]

    @property
    def is_finished(self) -> bool:
        """Is all that was begun done?"""
        return not self._unfinished

    def settle(self, read_to: int | None) -> int:
        """Write down what is unfinished before the state is sealed; return what to commit.

        `read_to`: up to where the log was read, with the markers behind its last record.
        """
        first = next(iter(self._unfinished), None)
        last = max(self._next - 1, self._skip_to)
        if first is None:
            self._state.delete(UNFINISHED, self._key)
            return max(last + 1, read_to or 0)
        self._state.put(UNFINISHED, self._key, _Unfinished(last, list(self._unfinished)))
        return first

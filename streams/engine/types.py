"""What the engine's parts hand to each other."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from faust.types import TP

if TYPE_CHECKING:
    from streams.engine.state import State

__all__ = ["TP", "Chunk", "Output", "Reading", "Record", "Source"]


class Record(Protocol):
    """One Kafka record as aiokafka's C parser hands it over."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Output(NamedTuple):
    """One record to produce. `partition` None: where murmur2 of the key puts it."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = []  # noqa: RUF012  # a tuple's default, and never changed


_UNLIMITED = 1 << 30


def _no_limit() -> int:
    return _UNLIMITED


@dataclass(slots=True)
class Chunk:
    """All records of one poll of one source partition, and where what they cause goes."""

    tp: TP
    records: Sequence[Record]
    state: "State"
    """Of the same partition number, shared by all sources of it."""
    emit: Callable[[Output], None]
    """Produce with this cycle's transaction. Needs no answer: it is done or nothing is."""
    hurry: Callable[[], None]
    """Commit this cycle at once: somebody waits for what it says."""
    now: int = 0
    """This moment as an instant, by the clock of whoever runs the fold: folds read none."""
    room: Callable[[], int] = _no_limit
    """How many more records may be emitted of this chunk before others have their turn. A fold
    that can emit many for one record stops where none is left."""
    unfinished: Sequence[Record] = ()

    def leave(self, record: Record) -> None:
        """Stop at a record: it and those behind it are folded again. What was done of it is known
        then only from what the state says."""
        self.unfinished = [one for one in self.records if one.offset >= record.offset]

    def in_turn(self) -> Iterator[Record]:
        """Yield the records for as long as there is room; the rest is left."""
        for number, record in enumerate(self.records):
            if number and self.room() <= 0:
                self.leave(record)
                return
            yield record


@dataclass(frozen=True)
class Source:
    """A topic and the fold of its batches. A fold that raises stops the worker."""

    topic: str
    fold: Callable[[Chunk], None]
    order: int = 1
    """Which of a partition's sources goes first when several have records."""
    is_read_first: bool = False
    """A new group reads what stands in this topic before it folds anything else."""
    is_timed: bool = False
    """Its records and those of other timed sources of the partition (clocks are) are folded in
    the order of their timestamps: a backlog comes out as it would have come in time."""
    is_clock: bool = False
    """Its records wait also for what is older of all sources that go first (see `order`)."""
    is_bulk: bool = False
    """Nobody waits for what it says: it has a small share of each cycle, once."""
    give: "Callable[[Chunk], asyncio.Future[None]] | None" = None
    """Hands a chunk to the Faust agent that folds it (`chunks.py`); None: it is folded at once."""


class Reading(Protocol):
    """Whoever reads the assigned partitions for an engine, and knows where their logs end. Only
    `seek_all` waits."""

    async def seek_all(self, positions: dict[TP, int]) -> None:
        """Go on reading at these offsets, once no read of before is under way."""

    def is_read_up(self, tp: TP, position: int) -> bool:
        """Does a partition's log end at this offset, as far as the last fetch told?"""

    def end_of(self, tp: TP) -> int | None:
        """Return where a partition's log ends, as far as the last fetch told."""

    def is_held(self, tp: TP) -> bool:
        """Does a part of a partition wait behind somebody's open transaction?"""

    def read_to(self, tp: TP) -> int | None:
        """Return up to where a partition was read, markers included, when all that was read has
        arrived; None: it hasn't, or nobody knows."""

"""The types that the engine's modules, and the agents, share."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from faust.types import TP

if TYPE_CHECKING:
    from streams.engine.state import State

__all__ = [
    "TP",
    "Chunk",
    "Crash",
    "Header",
    "Origin",
    "Output",
    "Reading",
    "Record",
    "Source",
    "crash_of",
    "is_cancelled",
]


Crash = Callable[[Exception], None]
"""Stops the worker because of an error."""

Header = tuple[str, bytes | None]
"""A record's header: its name, and its value, which other producers may leave out."""


class Record(Protocol):
    """One Kafka record as aiokafka's C parser returns it."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class Output(NamedTuple):
    """One record to produce. `partition` None: the one that Kafka's default partitioner gives."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[Header] = []  # noqa: RUF012  # a tuple's default, and never changed
    origin: "Origin | None" = None
    """What becomes a dead letter where Kafka refuses this for good; None: this record itself."""


class Origin(NamedTuple):
    """The whole record that an output is made of."""

    tp: TP
    record: Record
    told: Output
    """Emitted beside it: says that it was written, so that it goes where it isn't."""


_UNLIMITED = 1 << 30


def _no_limit() -> int:
    return _UNLIMITED


@dataclass(slots=True)
class Chunk:
    """The records of one source partition that a fold gets at once, and what it may use."""

    tp: TP
    records: Sequence[Record]
    state: "State"
    """The state of the same partition number, shared by all its sources."""
    emit: Callable[[Output], None]
    """Produce a record with this cycle's transaction: it is committed with the rest, or not at
    all."""
    hurry: Callable[[], None]
    """Ask for a commit at once, because a person waits for what was emitted."""
    now: int = 0
    """The present instant, by the clock of the one that calls the fold: folds read no clock."""
    room: Callable[[], int] = _no_limit
    """Returns how many more records this chunk may emit before others have their turn. A fold that
    can emit many for one record must stop at 0."""
    unfinished: Sequence[Record] = ()

    def leave(self, record: Record) -> None:
        """Leave this record and those after it: they are folded again later. What was done for it
        already is known then only from the state."""
        self.unfinished = [one for one in self.records if one.offset >= record.offset]

    def in_turn(self) -> Iterator[Record]:
        """Yield the records while there is room; leave the rest."""
        for number, record in enumerate(self.records):
            if number and self.room() <= 0:
                self.leave(record)
                return
            yield record


@dataclass(frozen=True)
class Source:
    """A topic and the fold of its chunks. A fold that raises stops the worker."""

    topic: str
    fold: Callable[[Chunk], None]
    order: int = 1
    """The source with the lowest order goes first when several have records of one time."""
    is_read_first: bool = False
    """A new group folds all that is in this topic before anything else."""
    is_timed: bool = False
    """Records of timed sources of one partition number are folded in the order of their timestamps,
    so that a backlog gives the same results as records in time. Clocks are timed too."""
    is_clock: bool = False
    """Its records also wait for older records of all sources with a lower `order`."""
    is_bulk: bool = False
    """Nobody waits for what it emits: it gets one small share of each cycle."""
    give: "Callable[[Chunk], asyncio.Future[None]] | None" = None
    """Gives a chunk to the Faust agent that folds it (`chunks.py`); None: `fold` is called."""


class Reading(Protocol):
    """Reads the assigned partitions for an engine, and knows where their logs end. Only `seek_all`
    waits. "As far as known" means: according to the last fetch."""

    async def seek_all(self, positions: dict[TP, int]) -> None:
        """Wait until no earlier read is under way; then go on reading at these offsets."""

    def is_read_up(self, tp: TP, position: int) -> bool:
        """Does a partition's log end at this offset, as far as known?"""

    def end_of(self, tp: TP) -> int | None:
        """Return the end offset of a partition's log, as far as known; None: unknown."""

    def is_held(self, tp: TP) -> bool:
        """Are there records behind an open transaction, as far as known? They can't be read yet."""

    def read_to(self, tp: TP) -> int | None:
        """Return the offset up to which a partition was read, past markers; None: unknown, or
        records that were read are still on their way to the engine."""


def crash_of(crash: Crash, task: asyncio.Task[None]) -> None:
    """Stop the worker with a task's exception, which nobody would see otherwise."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        crash(error)


def is_cancelled() -> bool:
    """Was the present task cancelled? Else a CancelledError is of a task of aiokafka's own, which
    leaks it where a connection is lost."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0

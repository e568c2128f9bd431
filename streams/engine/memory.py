"""An engine in memory: the worker's folds without Kafka and without an event loop.

Like Kafka's TopologyTestDriver; used by replay, console and tests. A record that is emitted into a
topic which one of the sources reads is folded at once; the others go to `on_output`. The caller
decides the order of records (see `order.py`) and when a cycle ends.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from streams.engine.state import State
from streams.engine.types import TP, Chunk, Output, Source
from streams.topics import partition_of

# Loaded values are turned back into bytes, as at a worker's commit, when there are this many; and
# also after this many records, because values that were only looked at aren't counted.
_MOST_LOADED = 100_000
_MOST_RECORDS = 2_000_000
_LOOK_EVERY = 20_000
_MOST_KNOWN_KEYS = 200_000


class MemoryRecord(NamedTuple):
    """A record that exists only in memory."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: Any = ()


class MemoryEngine:
    """The states of all partitions, and the folds that change them."""

    def __init__(
        self, sources: Iterable[Source], partitions: int, on_output: Callable[[TP, Output], None]
    ) -> None:
        """`on_output` gets each record for a topic that no source reads, and the source partition
        whose fold emitted it."""
        self.sources = {source.topic: source for source in sources}
        self._partitions = partitions
        self._on_output = on_output
        self.states = [State(number) for number in range(partitions)]
        self._no_state = State(-1)
        """The state of partition numbers beyond `partitions`, which topics that aren't
        co-partitioned may have."""
        self.waiting: deque[tuple[TP, MemoryRecord]] = deque()
        """Emitted records that are still to be folded."""
        self._at = TP("", 0)
        self._records = 0
        self._look_at = _LOOK_EVERY
        self._places: dict[bytes, int] = {}

    def fold(self, tp: TP, records: Sequence[Any]) -> None:
        """Fold records of one partition, and then every record that they cause."""
        self.fold_one(tp, records)
        while self.waiting:
            self.fold_next()
        self._records += len(records)
        if self._records >= self._look_at:
            self._look_at = self._records + _LOOK_EVERY
            loaded = sum(state.loaded() for state in self.states)
            if loaded >= _MOST_LOADED or self._records >= _MOST_RECORDS:
                self.end_cycle()

    def fold_one(self, tp: TP, records: Sequence[Any]) -> None:
        """Fold records of one partition; the records that they cause wait in `waiting`."""
        self._at = tp
        left = records
        while left:
            chunk = self.chunk(tp, left)
            self.sources[tp.topic].fold(chunk)
            left = chunk.unfinished

    def chunk(self, tp: TP, records: Sequence[Any]) -> Chunk:
        """Return a chunk for a fold: its room has no limit, and its `now` is 0."""
        has_state = tp.partition < len(self.states)
        state = self.states[tp.partition] if has_state else self._no_state
        return Chunk(tp, records, state, self.emit, _nobody_waits)

    def fold_next(self) -> None:
        """Fold the record that waits longest. There must be one."""
        tp, record = self.waiting.popleft()
        self.fold_one(tp, [record])

    def end_cycle(self) -> None:
        """Make the changes permanent, as a commit does."""
        self._records, self._look_at = 0, _LOOK_EVERY
        for state in self.states:
            state.seal()
            state.apply()

    def place(self, key: bytes) -> int:
        """Return the partition of a key."""
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _MOST_KNOWN_KEYS:
                self._places.clear()
            place = self._places[key] = partition_of(key, self._partitions)
        return place

    def emit(self, output: Output) -> None:
        """Take a record that a fold emits."""
        if output.topic not in self.sources:
            self._on_output(self._at, output)
            return
        partition = output.partition
        if partition is None:
            partition = self.place(output.key or b"")
        self.waiting.append(
            (TP(output.topic, partition), MemoryRecord(0, 0, output.key, output.value))
        )


def _nobody_waits() -> None:
    """Do nothing: without commits there is none to hurry."""

"""An engine in memory: the same folds as the worker's, records in, outputs out; no Kafka, no loop.

As Kafka ships TopologyTestDriver: given its sources, shared by the replay and by tests. What a
fold emits into a topic that one of the sources reads is folded at once; the rest goes to whoever
asked. In which order records come is the caller's (see `order.py`), and so is the end of a cycle.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from streams.engine.state import State
from streams.engine.types import TP, Chunk, Output, Source
from streams.topics import partition_of

# What was worked on becomes bytes again, as at a worker's commits, when so many values are loaded;
# and after so many records, for the values that were only looked at.
_MOST_LOADED = 100_000
_MOST_RECORDS = 2_000_000
_LOOK_EVERY = 20_000
_MOST_KNOWN_KEYS = 200_000


class MemoryRecord(NamedTuple):
    """A record that is only in memory."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: Any = ()


class MemoryEngine:
    """All partitions' states, and the folds on them."""

    def __init__(
        self, sources: Iterable[Source], partitions: int, on_output: Callable[[TP, Output], None]
    ) -> None:
        """`on_output` gets what goes to topics that no source reads, with the partition whose fold
        said it (its topic and number)."""
        self.sources = {source.topic: source for source in sources}
        self._partitions = partitions
        self._on_output = on_output
        self.states = [State(number) for number in range(partitions)]
        self._no_state = State(-1)
        """Of partitions beyond these: a topic that isn't co-partitioned may have more."""
        self.waiting: deque[tuple[TP, MemoryRecord]] = deque()
        """What was emitted and is to be folded."""
        self._at = TP("", 0)
        self._records = 0
        self._look_at = _LOOK_EVERY
        self._places: dict[bytes, int] = {}

    def fold(self, tp: TP, records: Sequence[Any]) -> None:
        """Fold records of one partition and whatever they cause."""
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
        """Fold records; what they cause waits."""
        self._at = tp
        left = records
        while left:
            chunk = self.chunk(tp, left)
            self.sources[tp.topic].fold(chunk)
            left = chunk.unfinished

    def chunk(self, tp: TP, records: Sequence[Any]) -> Chunk:
        """Return what a fold is given: room without limit, and a moment that is no time."""
        has_state = tp.partition < len(self.states)
        state = self.states[tp.partition] if has_state else self._no_state
        return Chunk(tp, records, state, self.emit, _nobody_waits)

    def fold_next(self) -> None:
        """Fold the record that waits longest. There must be one."""
        tp, record = self.waiting.popleft()
        self.fold_one(tp, [record])

    def end_cycle(self) -> None:
        """Make what was worked on the base, as a commit does."""
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
        """Take what a fold says."""
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
    """Nothing is committed: a fold that is in a hurry hurries nobody."""

"""The records of a source partition that were read and are not folded yet."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from streams.engine.order import FOREVER, UNKNOWN
from streams.engine.types import TP, Record, Source


class Buffer:
    """The queue of one source partition's records. Implements `order.Head`."""

    def __init__(
        self, tp: TP, source: Source, position: int, is_read_up: Callable[[TP, int], bool]
    ) -> None:
        """`position`: the first offset to read. `is_read_up(tp, offset)`: does the partition's log
        end at this offset, as far as is known?"""
        self.tp = tp
        self.source = source
        self.position = position
        """The offset after the last record read."""
        self.count = 0
        self.weight = 1.0
        """What one record costs: values loaded plus records emitted for it, in the last fold."""
        self._is_read_up = is_read_up
        self._lists: deque[list[Record]] = deque()

    def add(self, records: list[Record]) -> int:
        """Append the records that are new; return how many they are."""
        # A fetch that began before a seek may bring records of the old position.
        if records[0].offset < self.position:
            records = [record for record in records if record.offset >= self.position]
            if not records:
                return 0
        self.position = records[-1].offset + 1
        self.count += len(records)
        self._lists.append(records)
        return len(records)

    def take(self, most: int, until: int) -> list[Record]:
        """Remove and return records: at least one, at most `most`, none younger than `until` (ms)
        but the first."""
        taken = self._lists.popleft()
        while self._lists and len(taken) < most:
            taken = taken + self._lists.popleft()
        if taken[-1].timestamp > until:
            most = min(most, max(1, bisect_right(taken, until, key=_timestamp)))
        if len(taken) > most:
            self._lists.appendleft(taken[most:])
            del taken[most:]
        self.count -= len(taken)
        return taken

    def put_back(self, records: Sequence[Record]) -> None:
        """Put records back at the front: the last ones of those that were taken."""
        self._lists.appendleft(list(records))
        self.count += len(records)

    @property
    def at(self) -> int | None:
        """The timestamp (ms) of the first record; None: the queue is empty."""
        return self._lists[0][0].timestamp if self._lists else None

    def is_past(self, end: int) -> bool:
        """Has everything before this offset been read?"""
        # The log's last record may be a transaction's marker, which is never delivered.
        return self.position >= end or self._is_read_up(self.tp, self.position)

    def more_from(self) -> int:
        """See `Head`."""
        return FOREVER if self._is_read_up(self.tp, self.position) else UNKNOWN


def _timestamp(record: Record) -> int:
    return record.timestamp

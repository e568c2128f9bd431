"""What was read of a source partition and waits to be folded."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from streams.engine.order import FOREVER, UNKNOWN
from streams.engine.types import TP, Record, Source


class Buffer:
    """Records of one source partition that were read and not folded: a head of `order`."""

    def __init__(
        self, tp: TP, source: Source, position: int, is_read_up: Callable[[TP, int], bool]
    ) -> None:
        """`is_read_up`: does a partition's log end at this offset, as far as is known?"""
        self.tp = tp
        self.source = source
        self.position = position
        """The offset after the last record read."""
        self.count = 0
        self.weight = 1.0
        """Values loaded and records emitted for each record, when it was folded last."""
        self._is_read_up = is_read_up
        self._lists: deque[list[Record]] = deque()

    def add(self, records: list[Record]) -> int:
        """Return how many of the records are new."""
        # After a seek a fetch that was under way may bring records from before it.
        if records[0].offset < self.position:
            records = [record for record in records if record.offset >= self.position]
            if not records:
                return 0
        self.position = records[-1].offset + 1
        self.count += len(records)
        self._lists.append(records)
        return len(records)

    def take(self, most: int, until: int) -> list[Record]:
        """Take up to so many records, at least one, none younger than `until`."""
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
        """Take the end of what was taken back."""
        self._lists.appendleft(list(records))
        self.count += len(records)

    @property
    def at(self) -> int | None:
        """Timestamp (ms) of the oldest record, None: there is none."""
        return self._lists[0][0].timestamp if self._lists else None

    def is_past(self, end: int) -> bool:
        """Is everything before this offset read?"""
        # The log's last record may be a transaction's marker, which is never delivered.
        return self.position >= end or self._is_read_up(self.tp, self.position)

    def more_from(self) -> int:
        """See `Head`."""
        return FOREVER if self._is_read_up(self.tp, self.position) else UNKNOWN


def _timestamp(record: Record) -> int:
    return record.timestamp

"""What was read of a source partition and waits to be folded."""

from bisect import bisect_right
from collections import deque

from streams.engine.types import Record


class Buffer:
    """Records of one source partition that were read and not folded."""

    def __init__(self, position: int) -> None:
        self.position = position
        """The offset after the last record read."""
        self.count = 0
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

    def take(self, most: int, until: int | None) -> list[Record]:
        """Take up to so many records, at least one, none younger than `until` (None: any)."""
        taken = self._lists.popleft()
        while self._lists and len(taken) < most:
            taken = taken + self._lists.popleft()
        if until is not None and taken[-1].timestamp > until:
            most = min(most, max(1, bisect_right(taken, until, key=_timestamp)))
        if len(taken) > most:
            self._lists.appendleft(taken[most:])
            del taken[most:]
        self.count -= len(taken)
        return taken

    @property
    def head_timestamp(self) -> int:
        """Milliseconds since the epoch of the oldest record. There must be one."""
        return self._lists[0][0].timestamp


def _timestamp(record: Record) -> int:
    return record.timestamp

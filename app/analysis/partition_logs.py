"""The logs that a replay reads: one queue for each partition, refilled when it is empty.

`Logs` is where records come from: Kafka, or an export's files. What they mean isn't known here.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Protocol

import msgspec

from streams.engine.order import FOREVER, UNKNOWN
from streams.engine.types import TP, Header, Source

RUNS_UNKNOWN = "what batches and runs were before it isn't known"
TOLD_UNKNOWN = "what was told before it counts as only_replay"
"""What follows where the beginning of a topic that is folded, or of `notifications`, is missing."""


class FileRecord(msgspec.Struct, gc=False):
    """A record from a file, with the fields that folds use."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class PartitionLog:
    """One partition's queue of records. Implements `order.Head`; `source` gives its order."""

    def __init__(self, tp: TP, source: Source) -> None:
        self.tp = tp
        self.source = source
        self.is_ended = False
        """Has the log ended, so that no record follows those that wait?"""
        self.at: int | None = None
        """When the first waiting record is due (ms); None: none waits. Timestamps are the
        producers' and may go backwards. So a record is due at the highest timestamp up to it:
        then its turn comes in any merge that looks at heads."""
        self._records: list[Any] = []
        self._due: list[int] = []
        self._taken = 0
        self._latest = UNKNOWN

    @property
    def offset(self) -> int | None:
        """The offset of the first waiting record; None: none waits."""
        return None if self.at is None else int(self._records[self._taken].offset)

    def more_from(self) -> int:
        """See `Head`."""
        return FOREVER if self.is_ended else UNKNOWN

    @property
    def is_hungry(self) -> bool:
        """Is the queue empty although the log has more records?"""
        return self.at is None and not self.is_ended

    def add(self, records: list[Any], timestamps: list[int] | None = None) -> None:
        """Fill the empty queue with records that were read, at least one."""
        due = [record.timestamp for record in records] if timestamps is None else timestamps
        if due[0] < self._latest or due != sorted(due):
            due = list(accumulate(due, max, initial=self._latest))[1:]
        self._records, self._due, self._taken = records, due, 0
        self._latest, self.at = due[-1], due[0]

    def take(self, most: int, until: int) -> list[Any]:
        """Remove and return records: at least one, at most `most`, none due after `until` (ms) but
        the first."""
        begin = self._taken
        end = min(begin + most, len(self._due))
        if self._due[end - 1] > until:
            end = max(begin + 1, bisect_right(self._due, until, begin, end))
        self._taken = end
        if end == len(self._due):
            records = self._records[begin:] if begin else self._records
            self._records, self.at = [], None
            return records
        self.at = self._due[end]
        return self._records[begin:end]


class Logs(Protocol):
    """The source of logs for a replay."""

    def counts(self) -> dict[str, int]:
        """Return how many partitions each topic has, by its real name."""

    def has(self, topic: str) -> bool:
        """Is there a topic of this real name, be it empty?"""

    def begin(self, logs: Iterable[PartitionLog]) -> int:
        """Read only these logs from now on, up to their present ends. Return about how many records
        that is."""

    def fill(self, hungry: list[PartitionLog]) -> None:
        """Wait until each of these logs has records or has ended. Raises CommandError."""

    def missing(self) -> list[str]:
        """Return sentences about records that can't be read: deleted already, or never exported."""

    def close(self) -> None:
        """Close connections or files."""

"""Logs as a replay reads them: each partition of a topic a head of `order`, filled when empty.

`Logs` is where records come from: Kafka, or an export's files. What they mean isn't known here.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Protocol

import msgspec

from streams.engine.order import FOREVER, UNKNOWN
from streams.engine.types import TP, Source


class FileRecord(msgspec.Struct, gc=False):
    """A record out of a file, as the folds look at one."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class PartitionLog:
    """One partition of a topic, and what was read of it. `source`: whose order it has."""

    def __init__(self, tp: TP, source: Source) -> None:
        self.tp = tp
        self.source = source
        self.is_ended = False
        """No more comes."""
        self.at: int | None = None
        """When the first record that waits is due (ms), None: none waits. Timestamps are the
        producers' and may go backwards: a record is due with the latest one before it, which is
        when its turn comes whoever merges by heads."""
        self._records: list[Any] = []
        self._due: list[int] = []
        self._taken = 0
        self._latest = UNKNOWN

    @property
    def offset(self) -> int | None:
        """Of the first record that waits; None: none waits."""
        return None if self.at is None else int(self._records[self._taken].offset)

    def more_from(self) -> int:
        """See `Head`."""
        return FOREVER if self.is_ended else UNKNOWN

    @property
    def is_hungry(self) -> bool:
        """Does nothing wait of a log that has more?"""
        return self.at is None and not self.is_ended

    def add(self, records: list[Any], timestamps: list[int] | None = None) -> None:
        """Take what was read, at least one record. Nothing may wait."""
        due = [record.timestamp for record in records] if timestamps is None else timestamps
        if due[0] < self._latest or due != sorted(due):
            due = list(accumulate(due, max, initial=self._latest))[1:]
        self._records, self._due, self._taken = records, due, 0
        self._latest, self.at = due[-1], due[0]

    def take(self, most: int, until: int) -> list[Any]:
        """Take up to so many of the records that wait and are due until then, at least one."""
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
    """Where logs come from."""

    def counts(self) -> dict[str, int]:
        """Return how many partitions each topic has, by its real name."""

    def begin(self, logs: Iterable[PartitionLog]) -> int:
        """Read these from now on, and no others, up to the ends they have. Returns about how many
        records that is."""

    def fill(self, hungry: list[PartitionLog]) -> None:
        """Return when each of these has records or is ended. Raises CommandError."""

    def missing(self) -> list[str]:
        """Say in sentences what isn't there to be read any more, or was never exported."""

    def close(self) -> None:
        """Let go of what is open."""

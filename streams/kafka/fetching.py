"""Fetching record batches as lists of aiokafka's C records, instead of one Python object each.

aiokafka builds a ConsumerRecord for every record through a generator; that alone costs more than
all of dialwatch's rules. `install` replaces the classes with which its fetcher builds results:
then `getmany` of every AIOKafkaConsumer in the process returns lists of C records, and `getone`
doesn't work. Follows aiokafka 0.14's consumer/fetcher.py.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

from streams.kafka.log_scan import batches_of, records_of


class _Batches(MemoryRecords):  # type: ignore[misc]
    """What a fetch brought of one partition, as batches."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._raw = raw

    def again(self, batch: Any) -> list[Any]:
        """Return the records of a batch that aiokafka's C parser can't read."""
        (found,) = (one for one in batches_of(self._raw) if one.base_offset == batch.base_offset)
        return records_of(self._raw, found)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Yields lists, each with the records of one record batch."""

    def _unpack_records(self) -> Iterator[list[Any]]:
        records = self._records
        while records.has_next():
            batch = records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if self._is_to_be_skipped(batch):
                self.next_fetch_offset = batch.next_offset
                continue
            wanted = self.next_fetch_offset
            # A fetch starts at the beginning of a batch, which may lie before the wanted offset.
            try:
                unpacked = list(batch)
            except UnicodeDecodeError:
                unpacked = records.again(batch)
            if batch.base_offset < wanted:
                unpacked = [record for record in unpacked if record.offset >= wanted]
            self.next_fetch_offset = batch.next_offset
            if unpacked:
                yield unpacked

    def _is_to_be_skipped(self, batch: Any) -> bool:
        """Is the batch a marker, or part of an aborted transaction?"""
        if self._isolation_level == fetcher.READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    _partition_records: Any
    most_at_once = 10_000
    """How many records to return at once, rounded up to a whole record batch: a fetch of 1 MiB of
    well compressed records may hold a hundred thousand of each partition."""

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Return the records of the next record batches; the rest of the fetch stays packed.
        `max_records` is aiokafka's parameter and ignored: it would cut batches."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        records: list[Any] = []
        for unpacked in self._partition_records:
            records.extend(unpacked)
            if len(records) >= self.most_at_once:
                self._hand_over(records)
                return records
        self._hand_over(records)
        self._partition_records = None
        return records

    def _hand_over(self, records: list[Any]) -> None:
        if records:
            # Set before the position moves: until the reader has the records, it is ahead of them.
            self._assignment.state_value(self._topic_partition).is_handing_over = True
        self._update_position()


def hand_over(most_at_once: int) -> None:
    """Set about how many records of a partition are returned at once, for the whole process."""
    _FetchResult.most_at_once = most_at_once


_THEIRS = fetcher.MemoryRecords, fetcher.PartitionRecords, fetcher.FetchResult
_OURS = _Batches, _PartitionRecords, _FetchResult


def install() -> None:
    """Make every AIOKafkaConsumer of this process return lists of C records."""
    fetcher.MemoryRecords, fetcher.PartitionRecords, fetcher.FetchResult = _OURS


def uninstall() -> None:
    """Undo `install`, for a process that also has other code reading with aiokafka."""
    fetcher.MemoryRecords, fetcher.PartitionRecords, fetcher.FetchResult = _THEIRS

"""Scanning logs without a group, from any offset to any other, to find few records among millions.

A batch that doesn't contain the wanted bytes is skipped without unpacking it. Only committed
records are returned (KIP-98: no aborted ones, no markers), unless the raw batches are asked for.
Follows aiokafka 0.14's consumer/fetcher.py and Kafka's record batch format, version 2.
"""

import asyncio
import re
from bisect import bisect_right
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from struct import Struct as Packed
from typing import Any, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from streams.engine.types import TP

T = TypeVar("T")

Wanted = bytes | re.Pattern[bytes]
"""Bytes, or a pattern of bytes, that the records looked for contain."""

BEGINNING, END = -2, -1
_FETCH_BYTES = 4 << 20
_RETRY_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0
_COMMITTED, _UNCOMMITTED = 1, 0
_FIRST_WINDOW = 2_000
_MOST_WINDOW = 500_000
# Where all records are wanted, a window's are in memory at once.
_MOST_UNSEARCHED = 50_000

# baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta,
# firstTimestamp, maxTimestamp, producerId, producerEpoch, baseSequence, recordsCount
_HEADER = Packed(">qiibIhiqqqhii")
_COMPRESSED, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_MAGIC_AT, _ATTRIBUTES_AT = 16, 22  # of the two bytes of attributes the one that is used
# A marker's key is two numbers, version and type, after five varints of one byte each.
_MARKER_TYPE = Packed(">h")
_MARKER_TYPE_AT = _HEADER.size + 7
_ABORT = 0


class RecordBatch(NamedTuple):
    """The header of one record batch in a fetched piece of log."""

    start: int
    end: int
    base_offset: int
    next_offset: int
    timestamp: int
    """The timestamp of the first record (ms); the broker's where the topic has LogAppendTime."""
    producer_id: int
    size: int
    """How many records it holds, without those that were compacted away."""
    attributes: int
    is_abort: bool
    """Is it the marker of an aborted transaction?"""

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)


class Piece(NamedTuple):
    """The answer to one fetch of a log."""

    begin: int
    """The log's first offset."""
    end: int
    """The log's end offset, with what is pending before it."""
    stable_end: int
    """The first offset of the oldest open transaction; without one, the end."""
    aborted: Sequence[tuple[int, int]]
    """The aborted transactions in this piece: producer id and first offset."""
    raw: bytes


class LogScan:
    """Reads logs with a connected client. It has no group and no position: calls name offsets."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._cluster: Any = None

    async def partition_counts(self) -> dict[str, int]:
        """Return how many partitions each topic has. Asks for all topics, because a question for
        one by name might create it."""
        cluster = await self._learn()
        return {name: len(cluster.partitions_for_topic(name) or ()) for name in cluster.topics()}

    async def offsets(self, tps: Iterable[TP], at: int) -> dict[TP, int]:
        """Return each log's first offset with this timestamp (ms) or a later one; the end offset
        where there is none. `at` may also be `BEGINNING` or `END`, the log's own."""
        tps = list(tps)
        asked = (self._retrying(partial(self._offset, tp, at)) for tp in tps)
        found = dict(zip(tps, await asyncio.gather(*asked), strict=True))
        late = [tp for tp, offset in found.items() if offset < 0]
        return found | (await self.offsets(late, END) if late else {})

    async def scan(
        self, tp: TP, begin: int, end: int, wanted: Collection[Wanted] = ()
    ) -> AsyncIterator[list[Any]]:
        """Yield lists of committed records from offset `begin` to before `end`, at most up to the
        first open transaction.

        `wanted`: yield only record batches that contain one of these, in a key or a value; the
        caller must check each record. Compressed batches are always unpacked.
        """
        fetching = self._start(tp, begin, _COMMITTED)
        try:
            while True:
                piece, position = await fetching
                shape = outline(piece.raw)
                starts = shape.starts
                after = batch_at(piece.raw, starts[-1]).next_offset if starts else position
                is_last = after >= min(end, piece.stable_end) or not starts
                if not is_last:
                    fetching = self._start(tp, after, _COMMITTED)
                for batch in kept_of(piece, shape, wanted):
                    if batch.next_offset <= begin or batch.base_offset >= end:
                        continue
                    records = [
                        record
                        for record in records_of(piece.raw, batch)
                        if begin <= record.offset < end
                    ]
                    if records:
                        yield records
                if is_last:
                    return
        finally:
            fetching.cancel()

    async def scan_back(
        self, tp: TP, begin: int, end: int, wanted: Collection[Wanted] = ()
    ) -> AsyncIterator[list[Any]]:
        """Yield the same, newest first: reads windows of growing size, each from its end."""
        window, most = _FIRST_WINDOW, _MOST_WINDOW if wanted else _MOST_UNSEARCHED
        while end > begin:
            start = max(begin, end - window)
            found = [record async for some in self.scan(tp, start, end, wanted) for record in some]
            found.reverse()
            if found:
                yield found
            end, window = start, min(window * 4, most)

    async def pieces(self, tp: TP, begin: int, *, is_committed: bool) -> AsyncIterator[Piece]:
        """Yield the raw log from an offset to its present end, piece by piece. `is_committed`: only
        up to the first open transaction."""
        end = None
        while True:
            piece, _ = await self._start(tp, begin, _COMMITTED if is_committed else _UNCOMMITTED)
            if end is None:
                end = piece.stable_end if is_committed else piece.end
            yield piece
            batches = list(batches_of(piece.raw))
            if not batches or batches[-1].next_offset >= end:
                return
            begin = batches[-1].next_offset

    def _start(self, tp: TP, offset: int, level: int) -> "asyncio.Task[tuple[Piece, int]]":
        return asyncio.create_task(self._fetch_from(tp, offset, level))

    async def _fetch_from(self, tp: TP, offset: int, level: int) -> tuple[Piece, int]:
        """Return the piece at an offset, and that offset. Where the offset was deleted, take the
        log's beginning."""
        while True:
            try:
                piece: Piece = await self._retrying(partial(self._fetch, tp, offset, level))
            except OffsetOutOfRangeError:
                begins = await self.offsets([tp], BEGINNING)
                if begins[tp] <= offset:
                    raise
                offset = begins[tp]
            else:
                return piece, offset

    async def _fetch(self, tp: TP, offset: int, level: int) -> Piece:
        request = FetchRequest(
            0, 0, _FETCH_BYTES, level, [(tp.topic, [(tp.partition, offset, _FETCH_BYTES)])]
        )
        answer = await self._client.send(await self._leader(tp), request)
        ((_, ((_, error_code, end, stable_end, begin, aborted, *_, raw),)),) = answer.topics
        if error_code:
            raise for_code(error_code)(tp)
        return Piece(begin, end, stable_end, aborted or (), raw or b"")

    async def _offset(self, tp: TP, at: int) -> int:
        request = OffsetRequest(-1, _UNCOMMITTED, [(tp.topic, [(tp.partition, at)])])
        answer = await self._client.send(await self._leader(tp), request)
        ((_, ((_, error_code, _, offset),)),) = answer.topics
        if error_code:
            raise for_code(error_code)(tp)
        return int(offset)

    async def _retrying(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request while the partition's leader moves. Raises KafkaError."""
        now = asyncio.get_running_loop().time
        deadline = now() + _PATIENCE_SECONDS
        while True:
            try:
                return await ask()
            except KafkaError as error:
                if not error.retriable or now() > deadline:
                    raise
                self._cluster = None
            await asyncio.sleep(_RETRY_SECONDS)

    async def _leader(self, tp: TP) -> int:
        cluster = self._cluster or await self._learn()
        leader = cluster.leader_for_partition(TopicPartition(*tp))
        if leader is None or leader < 0:
            raise UnknownTopicOrPartitionError(tp)
        return int(leader)

    async def _learn(self) -> Any:
        self._cluster = await self._client.fetch_all_metadata()
        return self._cluster


class Outline(NamedTuple):
    """Where the complete batches of a piece begin and end: enough to skip them."""

    starts: list[int]
    end: int
    """The end of the last complete one; an incomplete one may follow."""
    has_compressed: bool


def outline(raw: bytes) -> Outline:
    """Find the batches of a piece of log without unpacking any: a log of single records has a batch
    and a marker for each."""
    starts, start, length, has_compressed = [], 0, len(raw), False
    while start + _HEADER.size <= length:
        end = start + 12 + int.from_bytes(raw[start + 8 : start + 12], "big")
        if end > length:
            break
        if raw[start + _MAGIC_AT] != 2:
            raise KafkaError("records older than Kafka 0.11's format: dialwatch can't read them")
        if raw[start + _ATTRIBUTES_AT] & _COMPRESSED:
            has_compressed = True
        starts.append(start)
        start = end
    return Outline(starts, start, has_compressed)


def batch_at(raw: bytes, start: int) -> RecordBatch:
    """Return the complete batch that begins at byte `start`."""
    (base, size, _, _, _, attributes, last, first_at, last_at, producer, _, _, count) = (
        _HEADER.unpack_from(raw, start)
    )
    # With LogAppendTime the broker sets the latter alone, for all records of the batch.
    timestamp = last_at if attributes & _LOG_APPEND_TIME else first_at
    end = start + 12 + size
    is_abort = (
        bool(attributes & _CONTROL)
        and end >= start + _MARKER_TYPE_AT + 2
        and _MARKER_TYPE.unpack_from(raw, start + _MARKER_TYPE_AT)[0] == _ABORT
    )
    return RecordBatch(
        start, end, base, base + last + 1, timestamp, producer, count, attributes, is_abort
    )


def batches_of(raw: bytes) -> Iterator[RecordBatch]:
    """Yield the complete batches of a piece of log."""
    return (batch_at(raw, start) for start in outline(raw).starts)


def kept_of(piece: Piece, shape: Outline, wanted: Collection[Wanted]) -> Iterator[RecordBatch]:
    """Yield the committed batches that contain one of `wanted`; all, where that is empty."""
    raw = piece.raw
    if not wanted or piece.aborted or shape.has_compressed:
        every = (batch_at(raw, start) for start in shape.starts)
        yield from holding(raw, committed(every, piece.aborted), wanted)
        return
    for start in sorted({start for text in wanted for start in _hits(raw, shape, text)}):
        batch = batch_at(raw, start)
        if not batch.is_control:
            yield batch


def _hits(raw: bytes, shape: Outline, text: Wanted) -> Iterator[int]:
    """Yield the beginnings of the batches that contain `text`."""
    at = _find(raw, text, 0)
    while 0 <= at < shape.end:
        number = bisect_right(shape.starts, at)
        yield shape.starts[number - 1]
        at = _find(raw, text, shape.starts[number]) if number < len(shape.starts) else -1


def committed(
    batches: Iterable[RecordBatch], aborted: Iterable[tuple[int, int]]
) -> Iterator[RecordBatch]:
    """Yield the batches of committed records: no markers, nothing of `aborted` transactions."""
    begun = sorted(aborted, key=lambda one: one[1], reverse=True)
    rejected: set[int] = set()
    for batch in batches:
        while begun and begun[-1][1] <= batch.base_offset:
            rejected.add(begun.pop()[0])
        if batch.is_control:
            if batch.is_abort:
                rejected.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in rejected):
            yield batch


def holding(
    raw: bytes, batches: Iterable[RecordBatch], wanted: Collection[Wanted]
) -> Iterator[RecordBatch]:
    """Yield the batches that contain one of `wanted`, and compressed ones, which can't be searched;
    all, where `wanted` is empty."""
    if not wanted:
        yield from batches
        return
    hits = {text: _find(raw, text, 0) for text in wanted}
    for batch in batches:
        for text, at in hits.items():
            if 0 <= at < batch.start:
                hits[text] = _find(raw, text, batch.start)
        is_hit = any(0 <= at < batch.end for at in hits.values())
        if is_hit or batch.attributes & _COMPRESSED:
            yield batch


def _find(raw: bytes, text: Wanted, start: int) -> int:
    if isinstance(text, bytes):
        return raw.find(text, start)
    found = text.search(raw, start)
    return -1 if found is None else found.start()


def records_of(raw: bytes, batch: RecordBatch) -> list[Any]:
    """Return a batch's records, as aiokafka's C parser returns them. Raises CorruptRecordException.

    Kafka doesn't check that the names of headers are UTF-8: bytes that aren't are `\\xff`.
    """
    piece = raw[batch.start : batch.end]
    try:
        return list(MemoryRecords(piece).next_batch())
    except UnicodeDecodeError:
        lenient = _DefaultRecordBatchPy(piece)
        lenient._maybe_uncompress()
        lenient._buffer = _Lenient(lenient._buffer)
        return list(lenient)


class _Lenient(bytearray):
    """A buffer whose slices become text whatever they hold. For aiokafka's parser in Python."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _LenientText(found) if isinstance(found, bytearray) else found


class _LenientText(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)

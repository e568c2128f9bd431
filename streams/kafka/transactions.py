"""Requests about open transactions (KIP-664), which aiokafka 0.14 lacks.

DescribeProducers says what is open in a partition, ListTransactions and DescribeTransactions what
the coordinators know of it, WriteTxnMarkers ends it. What to do is decided in
`streams/engine/hanging.py`.
"""

from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
)
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.record.memory_records import MemoryRecords

from streams.engine.types import TP

OFFSETS_TOPIC = "__consumer_offsets"
"""Kafka's topic of committed offsets. A transaction's offsets are pending in it."""

_TRANSACTIONAL_ID_NOT_FOUND = 105
_FETCH_BYTES = 1 << 20
_FETCH_WAIT_MS = 100
_READ_UNCOMMITTED = 0
_COMMIT = 1
"""The type of a commit marker; it stands in the marker's key behind the version."""

_TAGS = ("tags", TaggedFields)
_TEXT = CompactString("utf-8")
_TOPICS = CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)


class OpenTransaction(NamedTuple):
    """A transaction that is open in a partition, as the partition's leader knows it."""

    tp: TP
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    start_offset: int
    last_timestamp: int
    """The timestamp of the last record written with it (ms)."""


class TransactionState(NamedTuple):
    """What a coordinator knows of the last transaction of a transactional id."""

    transactional_id: str
    state: str
    """`Ongoing`, `PrepareCommit`, `CompleteCommit`, …"""
    producer_id: int
    producer_epoch: int
    partitions: frozenset[TP]
    start_time_ms: int = -1
    """When the transaction began, by the coordinator's clock."""


class Marker(NamedTuple):
    """A marker to write: it ends a transaction in a partition."""

    tp: TP
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    is_commit: bool


class Span(NamedTuple):
    """What one producer wrote in a partition between two of its markers."""

    producer_epoch: int
    last_timestamp: int
    marker_epoch: int
    is_commit: bool


class _DescribeProducersResponse(Response):  # type: ignore[misc]
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeProducersStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA = Schema(("topics", _TOPICS), _TAGS)


class _DescribeTransactionsResponse(Response):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", _TOPICS),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeTransactionsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(_TEXT)), _TAGS)


class _ListTransactionsResponse(Response):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(_TEXT)),
        (
            "states",
            CompactArray(
                ("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT), _TAGS
            ),
        ),
        _TAGS,
    )


class _ListTransactionsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListTransactionsResponse
    SCHEMA = Schema(
        ("state_filters", CompactArray(_TEXT)), ("producer_id_filters", CompactArray(Int64)), _TAGS
    )


class _WriteTxnMarkersResponse(Response):  # type: ignore[misc]
    API_KEY = 27
    API_VERSION = 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                (
                    "topics",
                    CompactArray(
                        ("topic", _TEXT),
                        (
                            "partitions",
                            CompactArray(("partition", Int32), ("error_code", Int16), _TAGS),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _WriteTxnMarkersStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 27
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _WriteTxnMarkersResponse
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("is_commit", Boolean),
                ("topics", _TOPICS),
                ("coordinator_epoch", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeProducers(Request[_DescribeProducersStruct]):  # type: ignore[misc]
    API_KEY = 61

    def __init__(self, tps: Iterable[TP]) -> None:
        self._fields: tuple[Any, ...] = (_by_topic(tps), {})

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


class _DescribeTransactions(Request[_DescribeTransactionsStruct]):  # type: ignore[misc]
    API_KEY = 65

    def __init__(self, transactional_ids: list[str]) -> None:
        self._fields: tuple[Any, ...] = (transactional_ids, {})

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


class _ListTransactions(Request[_ListTransactionsStruct]):  # type: ignore[misc]
    API_KEY = 66

    def __init__(self, producer_ids: list[int]) -> None:
        self._fields: tuple[Any, ...] = ([], producer_ids, {})

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


class _WriteTxnMarkers(Request[_WriteTxnMarkersStruct]):  # type: ignore[misc]
    API_KEY = 27

    def __init__(self, markers: list[tuple[Any, ...]]) -> None:
        self._fields: tuple[Any, ...] = (markers, {})

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


def partitions_of(client: AIOKafkaClient, topics: Iterable[str]) -> list[TP]:
    """Return all partitions of topics that are in a client's metadata."""
    return [
        TP(topic, number)
        for topic in topics
        for number in sorted(client.cluster.partitions_for_topic(topic) or ())
    ]


def offsets_partition(client: AIOKafkaClient, group: str) -> TP | None:
    """Return the partition that keeps a group's offsets; None: this user may not see it."""
    count = len(client.cluster.partitions_for_topic(OFFSETS_TOPIC) or ())
    return TP(OFFSETS_TOPIC, _java_hash(group) % count) if count else None


async def open_transactions(
    client: AIOKafkaClient, tps: Collection[TP]
) -> tuple[list[OpenTransaction], set[str]]:
    """Return the open transactions in partitions, and the topics whose ones this user may not see.

    Raises KafkaError, for instance where a partition has no leader, or the broker is too old
    (IncompatibleBrokerVersion).
    """
    found: list[OpenTransaction] = []
    hidden: set[str] = set()
    for node, theirs in _by_leader(client, tps).items():
        answer = await client.send(node, _DescribeProducers(theirs))
        for topic, partitions, _ in answer.topics:
            for partition, error_code, _message, producers, _ in partitions:
                error = for_code(error_code)
                if error is TopicAuthorizationFailedError:
                    hidden.add(topic)
                elif error is not NoError:
                    raise error(f"{topic}-{partition}")
                found += (
                    OpenTransaction(TP(topic, partition), pid, epoch, at_coordinator, start, last)
                    for pid, epoch, _sequence, last, at_coordinator, start, _ in producers or ()
                    if start >= 0
                )
    return found, hidden


async def owners_of(client: AIOKafkaClient, producer_ids: Collection[int]) -> dict[int, str]:
    """Return producers' transactional ids, by producer id, as far as coordinators know them and
    this user may see them."""
    found = {}
    for broker in client.cluster.brokers():
        answer = await client.send(broker.nodeId, _ListTransactions(sorted(producer_ids)))
        if answer.error_code:
            raise for_code(answer.error_code)
        found.update({pid: name for name, pid, _state, _ in answer.states})
    return found


async def describe_transaction(
    client: AIOKafkaClient, transactional_id: str
) -> TransactionState | None:
    """Return what the coordinator knows of an id; None: nothing, or this user may not see it."""
    node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    answer = await client.send(
        node, _DescribeTransactions([transactional_id]), group=ConnectionGroup.COORDINATION
    )
    ((error_code, name, state, _timeout, start_ms, pid, epoch, topics, _),) = answer.states
    if error_code == _TRANSACTIONAL_ID_NOT_FOUND:
        return None
    error = for_code(error_code)
    if error is TransactionalIdAuthorizationFailed:
        return None
    if error is not NoError:
        raise error()
    tps = frozenset(TP(topic, number) for topic, numbers, _ in topics for number in numbers)
    return TransactionState(name, state, pid, epoch, tps, start_ms)


async def write_markers(client: AIOKafkaClient, markers: Collection[Marker]) -> None:
    """Write markers, which end transactions.

    Raises ClusterAuthorizationFailedError without the right Alter on the cluster.
    """
    by_tp = {marker.tp: marker for marker in markers}
    for node, theirs in _by_leader(client, by_tp).items():
        entries: list[tuple[Any, ...]] = [
            (
                by_tp[tp].producer_id,
                by_tp[tp].producer_epoch,
                by_tp[tp].is_commit,
                _by_topic([tp]),
                max(by_tp[tp].coordinator_epoch, 0),
                {},
            )
            for tp in theirs
        ]
        answer = await client.send(node, _WriteTxnMarkers(entries))
        for _pid, topics, _ in answer.markers:
            for topic, partitions, _ in topics:
                for partition, error_code, _ in partitions:
                    if error_code:
                        raise for_code(error_code)(f"{topic}-{partition}")


async def end_at_coordinator(
    client: AIOKafkaClient,
    known: TransactionState,
    tps: Collection[TP],
    group: str,
    *,
    is_commit: bool,
) -> None:
    """Make the coordinator of an idle producer write its markers: begin a transaction of that
    producer with these partitions and the group's offsets, write nothing, and end it at once.

    Needs no more rights than the producer has.
    """
    name = known.transactional_id
    node = await client.coordinator_lookup(CoordinationType.TRANSACTION, name)
    who = (name, known.producer_id, known.producer_epoch)

    async def ask(request: Any) -> Any:
        return await client.send(node, request, group=ConnectionGroup.COORDINATION)

    topics = [(topic, numbers) for topic, numbers, _ in _by_topic(tps) if topic != OFFSETS_TOPIC]
    if topics:
        answer = await ask(AddPartitionsToTxnRequest(*who, topics))
        for topic, partitions in answer.errors:
            for partition, error_code in partitions:
                if error_code:
                    raise for_code(error_code)(f"{topic}-{partition}")
    for request in (AddOffsetsToTxnRequest(*who, group), EndTxnRequest(*who, is_commit)):
        answer = await ask(request)
        if answer.error_code:
            raise for_code(answer.error_code)()


async def batches_of(client: AIOKafkaClient, tp: TP, start: int, end: int) -> AsyncIterator[Any]:
    """Yield the record batches of a part of a log, markers included."""
    while start < end:
        request = FetchRequest(
            _FETCH_WAIT_MS,
            1,
            _FETCH_BYTES,
            _READ_UNCOMMITTED,
            [(tp.topic, [(tp.partition, start, _FETCH_BYTES)])],
        )
        answer = await client.send(_leader(client, tp), request)
        ((_topic, ((_partition, error_code, *_rest, raw),)),) = answer.topics
        if error_code:
            raise for_code(error_code)(f"{tp.topic}-{tp.partition}")
        records, before = MemoryRecords(raw or b""), start
        while records.has_next():
            batch = records.next_batch()
            start = max(start, batch.next_offset)
            yield batch
        if start == before:
            return


async def spans_of(
    client: AIOKafkaClient, tp: TP, producer_id: int, start: int, end: int
) -> list[Span]:
    """Read a part of a log; return the spans that a producer wrote and ended in it."""
    spans: list[Span] = []
    written: tuple[int, int] | None = None
    async for batch in batches_of(client, tp, start, end):
        if batch.producer_id != producer_id:
            continue
        if not batch.is_control_batch:
            written = (batch.producer_epoch, batch.max_timestamp)
        elif written is not None:
            (marker,) = batch
            is_commit = int.from_bytes(marker.key[2:4], "big") == _COMMIT
            spans.append(Span(*written, batch.producer_epoch, is_commit))
            written = None
    return spans


def _by_leader(client: AIOKafkaClient, tps: Iterable[TP]) -> dict[int, list[TP]]:
    by_leader: dict[int, list[TP]] = {}
    for tp in tps:
        by_leader.setdefault(_leader(client, tp), []).append(tp)
    return by_leader


def _leader(client: AIOKafkaClient, tp: TP) -> int:
    node = client.cluster.leader_for_partition(TopicPartition(*tp))
    if node is None:
        raise UnknownTopicOrPartitionError(f"{tp.topic}-{tp.partition}")
    if node < 0:
        raise LeaderNotAvailableError(f"{tp.topic}-{tp.partition} has no leader yet")
    return int(node)


def check_leaders(client: AIOKafkaClient, topics: Iterable[str]) -> None:
    """Raise LeaderNotAvailableError unless all partitions of topics have leaders, according to the
    client's metadata."""
    for topic in topics:
        if not client.cluster.partitions_for_topic(topic):
            raise UnknownTopicOrPartitionError(topic)
        for tp in partitions_of(client, [topic]):
            _leader(client, tp)


def _by_topic(tps: Iterable[TP]) -> list[tuple[str, list[int], dict[int, bytes]]]:
    topics: dict[str, list[int]] = {}
    for tp in sorted(tps):
        topics.setdefault(tp.topic, []).append(tp.partition)
    return [(topic, numbers, {}) for topic, numbers in topics.items()]


def _java_hash(text: str) -> int:
    """Return Java's `String.hashCode`, made positive as Kafka does it."""
    number = 0
    units = text.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        number = (31 * number + (high << 8 | low)) & 0xFFFFFFFF
    return number & 0x7FFFFFFF

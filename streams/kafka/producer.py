"""The producer of one worker: commits a cycle's records and source offsets as one transaction.

Each worker has one transactional producer, fenced by the consumer group's generation (Kafka
Streams' "exactly once v2"). What is in the records isn't known here.

Longer than other modules because of what aiokafka lacks: sending offsets with the group's
generation, the result of each send, ending a dead worker's transaction.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer, TopicPartition, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    NotCoordinatorError,
    OperationNotAttempted,
    ProducerFenced,
    RecordListTooLargeError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from streams.engine import fault_points
from streams.engine.types import TP
from streams.kafka.protocol import (
    CommittedOffset,
    Membership,
    OffsetFetch,
    TxnOffsetCommit,
    read_offset_commit,
    read_offset_fetch,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

Destination = tuple[str, int]
ProducerRecord = tuple[bytes | None, bytes | None, Any]
"""A record to write: key, value and headers."""

TRANSACTION_TIMEOUT_SECONDS = 10.0
_TOPIC_RESOURCE = 2
_RETRY_SECONDS = 0.005
# aiokafka's pause between two transactions while the markers of the first are written. Its default
# of 20 ms would be most of an alert's delay.
sender.BACKOFF_OVERRIDE = _RETRY_SECONDS
_MAX_BATCH_BYTES = 900_000  # below the broker's message.max.bytes of 1 MiB
_WAIT_FOR_COORDINATOR_SECONDS = 30.0
_ABORT_SECONDS = 5.0
_STOP_SECONDS = 3.0
_LONG_COMMIT_SECONDS = 10.0
_DOUBTFUL_SECONDS = 3.0
"""Ending a transaction may take longer if the coordinator was restarted meanwhile; that one may
have completed the transaction without writing its markers."""

_RETRIABLE = (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
)


class KafkaInvalidRecordError(KafkaError):  # type: ignore[misc]
    """Kafka's error INVALID_RECORD, which aiokafka doesn't know: the broker refuses a record."""

    errno = 87
    message = "INVALID_RECORD"


errors.kafka_errors[KafkaInvalidRecordError.errno] = KafkaInvalidRecordError

_RECORD_REFUSED = (
    KafkaInvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
"""Kafka will never accept the record; it may accept the others of the transaction."""
_SMALL_BATCH_BYTES = 50_000
_LONGEST_RECORD = 64 << 20  # if the topic's limit is unknown; brokers disconnect at 100 MiB
_PRODUCER_FENCED = (InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced)
"""Another producer has this transactional id now, or has ended this one's transaction."""


class RefusedRecordsError(Exception):
    """Kafka will never accept some records. `refused`: their indexes in the lists given to
    `commit`, by destination. Nothing was committed; the producer is ready for another `commit`."""

    def __init__(self, refused: Mapping[Destination, Sequence[int]], error: Exception) -> None:
        super().__init__(f"{type(error).__name__} of {dict(refused)}")
        self.refused = refused
        self.error = error


class _BatchRefusedError(Exception):
    """Kafka refuses a batch of several records; any of them may be the cause."""

    def __init__(self, destination: Destination, records: range, error: Exception) -> None:
        super().__init__(destination, records, error)
        self.destination, self.records, self.error = destination, records, error


class TransactionalProducer:
    """Commits one transaction at a time. After any error the caller must call `end` and recover."""

    def __init__(self, transactional_id: str, client_options: dict[str, Any]) -> None:
        """`client_options`: bootstrap servers and security, by aiokafka's parameter names."""
        self.transactional_id = transactional_id
        self._client_options = client_options
        self._producer: AIOKafkaProducer | None = None
        self._coordinators: dict[tuple[int, str], int] = {}
        self._is_lost = False
        self._has_gap = False
        """Was a batch not written? The next batch's sequence number would then leave a gap, and
        every commit would fail."""
        self._counts: dict[str, int] = {}
        self.longest: dict[str, int] = {}
        """`max.message.bytes` by topic, where it is known."""
        self._is_doubtful = False
        """Was the coordinator away or restarted since the present request began?"""
        self._committed: list[Destination] | None = None
        """The destinations of the last transaction; None: this producer has committed none, or has
        aborted one since."""

    @property
    def is_open(self) -> bool:
        """Does it have a producer id, so that it can begin a transaction?"""
        return self._producer is not None

    async def open(self) -> None:
        """Connect, and end whatever a predecessor with this id left open. May wait for brokers."""
        await self.end()
        if self._producer is not None:
            return
        producer = AIOKafkaProducer(
            **self._client_options,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT_SECONDS * 1000),
            acks="all",
            linger_ms=0,
            max_batch_size=_MAX_BATCH_BYTES,
            retry_backoff_ms=int(_RETRY_SECONDS * 1000),
            request_timeout_ms=20_000,
        )
        try:
            await producer.start()
        except AssertionError:
            # A broker that was away knows no brokers for a moment, not even itself, and aiokafka
            # asserts that it knows one.
            await stop_quietly(producer)
            raise KafkaConnectionError("Kafka knows of no broker yet") from None
        except BaseException:
            await stop_quietly(producer)
            raise
        self._producer = producer

    def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has. The topic must be known: see `learn`."""
        if self._producer is not None:
            partitions = self._producer.client.cluster.partitions_for_topic(topic)
            if partitions:
                return len(partitions)
        if topic not in self._counts:
            raise UnknownTopicOrPartitionError(topic)
        return self._counts[topic]  # the producer is just being replaced

    async def learn(self, topics: list[str]) -> None:
        """Fetch the topics' metadata, so that `partition_count` knows them."""
        await learn(self._open_producer.client, topics)
        for topic in topics:
            self._counts[topic] = len(await self._open_producer.partitions_for(topic))
        self.longest = await longest_records(self._open_producer.client, topics)

    async def commit(
        self,
        records: Mapping[Destination, Sequence[ProducerRecord]],
        offsets: dict[TP, int],
        membership: Membership,
    ) -> dict[Destination, int]:
        """Commit records and offsets as one transaction; return each destination's next offset.

        1. Add all partitions to the transaction, 2. produce everything, 3. wait until all of it is
        written (aiokafka's commit doesn't fail when a send failed), 4. send the offsets, fenced by
        the group's generation, 5. commit. The offsets returned lie behind the transaction's own
        marker.

        Raises RefusedRecordsError where Kafka will never accept some records; then nothing is
        committed. After any other error that is unknown: call `end`.
        """
        # aiokafka waits for brokers without a limit and without a line in the log.
        impatient = asyncio.get_running_loop().call_later(
            _LONG_COMMIT_SECONDS, log.warning, "a commit takes long: is Kafka away or slow?"
        )
        try:
            return await self._commit_or_narrow(records, offsets, membership)
        except _PRODUCER_FENCED:
            self._is_lost = True
            raise
        finally:
            impatient.cancel()

    async def _commit_or_narrow(
        self,
        records: Mapping[Destination, Sequence[ProducerRecord]],
        offsets: dict[TP, int],
        membership: Membership,
    ) -> dict[Destination, int]:
        """Commit. Where a batch is refused, find the records that are the cause by writing it again
        in smaller batches, in the end one by one."""
        too_long = self._too_long(records)
        if too_long:
            raise RefusedRecordsError(too_long, MessageSizeTooLargeError())
        narrowed: dict[Destination, tuple[range, int]] = {}
        while True:
            try:
                return await self._commit(records, offsets, membership, narrowed)
            except _BatchRefusedError as refused:
                await self.open()
                await learn(self._open_producer.client, list(self._counts))
                destination, suspects = refused.destination, refused.records
                if len(suspects) == 1:
                    culprit = {destination: [suspects.start]}
                    raise RefusedRecordsError(culprit, refused.error) from refused.error
                _, before = narrowed.get(destination, (None, _MAX_BATCH_BYTES))
                most = _SMALL_BATCH_BYTES if before > _SMALL_BATCH_BYTES else 0
                narrowed[destination] = (suspects, most)

    def _too_long(
        self, records: Mapping[Destination, Sequence[ProducerRecord]]
    ) -> dict[Destination, list[int]]:
        """Return, by destination, the indexes of records that are surely too long for their
        topic."""
        found = {}
        for destination, pairs in records.items():
            if destination[0] not in self._counts:
                continue  # the changelog has many short records: the broker checks them
            most = self.longest.get(destination[0], _LONGEST_RECORD)
            too_long = [place for place, record in enumerate(pairs) if size_of(record) > most]
            if too_long:
                found[destination] = too_long
        return found

    async def _commit(
        self,
        records: Mapping[Destination, Sequence[ProducerRecord]],
        offsets: dict[TP, int],
        membership: Membership,
        narrowed: Mapping[Destination, tuple[range, int]],
    ) -> dict[Destination, int]:
        producer, now = self._open_producer, asyncio.get_running_loop().time
        await producer.begin_transaction()
        await self._join(producer, list(records), membership.group)
        written: list[tuple[Destination, range, asyncio.Future[Any]]] = []
        self._has_gap = True
        for half, (destination, pairs) in enumerate(records.items()):
            if half == len(records) // 2:
                fault_points.passing(fault_points.HALF_PRODUCED)
            await self._produce(producer, destination, pairs, narrowed.get(destination), written)
        metadata = await asyncio.gather(
            *(future for _, _, future in written), return_exceptions=True
        )
        ends = _check_written(written, metadata)
        self._has_gap = False
        fault_points.passing(fault_points.BEFORE_OFFSETS)
        await self._send_offsets(producer, offsets, membership)
        fault_points.passing(fault_points.BEFORE_COMMIT)
        began = now()
        await producer.commit_transaction()
        self._committed = list(records)
        if now() - began > _DOUBTFUL_SECONDS:
            await self._write_markers_again(membership.group)
        return ends

    async def end(self) -> None:
        """End an open transaction: abort it where that is sure to work, else close the producer, so
        that the next one's InitProducerId aborts it."""
        producer = self._producer
        if producer is None:
            return
        # In any other state aiokafka has forgotten which partitions are in the transaction. It
        # would send no EndTxn, and the records would be committed with the next transaction.
        # And where the answer to one of our own requests said that this producer is fenced,
        # aiokafka doesn't know: it would go on with an epoch that is always refused.
        state = None if self._is_lost else producer._txn_manager.state
        if state is TransactionState.READY:
            return
        if state is TransactionState.IN_TRANSACTION:
            began, self._committed = asyncio.get_running_loop().time(), None
            if not await within(_ABORT_SECONDS, producer.abort_transaction()):
                log.warning("could not abort a transaction: another producer does")
            elif (
                asyncio.get_running_loop().time() - began < _DOUBTFUL_SECONDS and not self._has_gap
            ):
                return
        self._producer, self._is_lost, self._committed = None, False, None
        self._has_gap = False
        await stop_quietly(producer)

    async def close(self) -> None:
        """End the open transaction and disconnect, within bounded time."""
        await self.end()
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_quietly(producer)

    async def committed_offsets(
        self, group: str, tps: list[TP], *, require_stable: bool
    ) -> dict[TP, CommittedOffset]:
        """Return a group's committed offsets. May wait for the group's coordinator."""

        async def ask() -> dict[TP, CommittedOffset]:
            request = OffsetFetch(group, tps, require_stable=require_stable)
            return read_offset_fetch(
                await self._ask_coordinator(CoordinationType.GROUP, group, request)
            )

        return await self._patiently(ask)

    async def end_transaction_of(self, transactional_id: str) -> None:
        """End the transaction that another worker, dead or frozen, left open, and fence it."""

        async def ask() -> None:
            request = InitProducerIdRequest(
                transactional_id, int(TRANSACTION_TIMEOUT_SECONDS * 1000)
            )
            answer = await self._ask_coordinator(
                CoordinationType.TRANSACTION, transactional_id, request
            )
            _raise_for(answer.error_code)

        await self._patiently(ask)

    async def _join(
        self, producer: AIOKafkaProducer, destinations: list[Destination], group: str
    ) -> None:
        """Add all partitions and the group to the transaction before anything is written.

        Raises TopicAuthorizationFailedError with the topic that this user may not write to.
        """
        while True:
            self._is_doubtful = False
            await self._add(destinations, group)
            if not self._is_doubtful or self._committed is None:
                break
            # If the last transaction hangs somewhere, it would be ended there as this one is.
            await self._write_markers_again(group)
        manager = producer._txn_manager
        manager._txn_partitions.update(TopicPartition(*to) for to in destinations)
        manager.consumer_group_added(group)

    async def _write_markers_again(self, group: str) -> None:
        """Make the coordinator write the last transaction's markers again where they are missing:
        commit a transaction that writes nothing but has the same partitions."""
        self._is_lost = True  # until this is done, since aiokafka doesn't know of it
        await self._add(self._committed or [], group)
        await self._patiently(lambda: self._ask_of_transaction(EndTxnRequest, True))
        self._is_lost = False

    async def _add(self, destinations: list[Destination], group: str) -> None:
        if destinations:
            await self._patiently(lambda: self._add_partitions(destinations))
        await self._patiently(lambda: self._ask_of_transaction(AddOffsetsToTxnRequest, group))

    async def _ask_of_transaction(self, request: type[Any], *fields: Any) -> Any:
        """Send the coordinator a request about this producer's transaction; raise its error."""
        manager = self._open_producer._txn_manager
        answer = await self._ask_coordinator(
            CoordinationType.TRANSACTION,
            self.transactional_id,
            request(self.transactional_id, manager.producer_id, manager.producer_epoch, *fields),
        )
        _raise_for(getattr(answer, "error_code", 0))
        return answer

    async def _add_partitions(self, destinations: list[Destination]) -> None:
        topics: dict[str, list[int]] = {}
        for topic, partition in destinations:
            topics.setdefault(topic, []).append(partition)
        answer = await self._ask_of_transaction(AddPartitionsToTxnRequest, list(topics.items()))
        for topic, partitions in answer.errors:
            for _partition, error_code in partitions:
                error = for_code(error_code)
                # Where one partition is refused, the others have OperationNotAttempted.
                if error is not NoError and error is not OperationNotAttempted:
                    raise error(topic)

    async def _produce(
        self,
        producer: AIOKafkaProducer,
        destination: Destination,
        pairs: Sequence[ProducerRecord],
        narrowed: tuple[range, int] | None,
        written: list[tuple[Destination, range, asyncio.Future[Any]]],
    ) -> None:
        topic, _ = destination
        most = min(_MAX_BATCH_BYTES, self.longest.get(topic, _MAX_BATCH_BYTES))
        suspects, most_of_suspects = narrowed or (range(0), most)
        parts = (
            (0, suspects.start, most),
            (suspects.start, suspects.stop, most_of_suspects),
            (suspects.stop, len(pairs), most),
        )
        for first, end, most_bytes in parts:
            if first == end:
                continue
            begin, count = first, 0
            # BatchBuilder.append costs twice as much as its C builder, for each changed key.
            batch = BatchBuilder(most_bytes, 0, is_transactional=True)
            append = batch._builder.append
            for key, value, headers in pairs[first:end] if suspects else pairs:
                if append(count, None, key, value, headers) is None:
                    await self._send(producer, destination, batch, begin, count, written)
                    begin += count
                    batch = BatchBuilder(most_bytes, 0, is_transactional=True)
                    # The first record of a batch is accepted at any size: the broker decides.
                    append, count = batch._builder.append, 0
                    append(count, None, key, value, headers)
                count += 1
            await self._send(producer, destination, batch, begin, count, written)

    @staticmethod
    async def _send(
        producer: AIOKafkaProducer,
        destination: Destination,
        batch: BatchBuilder,
        begin: int,
        count: int,
        written: list[tuple[Destination, range, asyncio.Future[Any]]],
    ) -> None:
        topic, partition = destination
        batch._relative_offset = count
        future = await producer.send_batch(batch, topic, partition=partition)
        # Where the next batch isn't taken at all nobody waits for this one: asyncio would complain.
        future.add_done_callback(_retrieve)
        written.append((destination, range(begin, begin + count), future))

    async def _send_offsets(
        self, producer: AIOKafkaProducer, offsets: dict[TP, int], membership: Membership
    ) -> None:
        manager = producer._txn_manager

        async def commit_offsets() -> None:
            request = TxnOffsetCommit(
                self.transactional_id,
                manager.producer_id,
                manager.producer_epoch,
                membership,
                offsets,
            )
            read_offset_commit(
                await self._ask_coordinator(CoordinationType.GROUP, membership.group, request)
            )

        await self._patiently(commit_offsets)

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Repeat a request while the coordinator moves, loads or is away; raise other errors."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _WAIT_FOR_COORDINATOR_SECONDS
        pause = _RETRY_SECONDS
        while True:
            try:
                return await ask()
            except _RETRIABLE as error:
                if loop.time() > deadline:
                    raise
                log.debug("asking again: %r", error)
                if isinstance(error, ConcurrentTransactions):
                    pause = _RETRY_SECONDS  # the last transaction's markers are being written
                else:
                    self._coordinators.clear()
                    self._is_doubtful = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _ask_coordinator(self, kind: int, key: str, request: Any) -> Any:
        client = self._open_producer.client
        known = (kind, key)
        node = self._coordinators.get(known)
        if node is None:
            node = self._coordinators[known] = await client.coordinator_lookup(kind, key)
        return await client.send(node, request, group=ConnectionGroup.COORDINATION)

    @property
    def _open_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the producer is not open")
        return self._producer


def size_of(record: ProducerRecord) -> int:
    """Return the bytes of a record's key, value and headers; in a log it takes a little more."""
    key, value, headers = record
    size = len(key or b"") + len(value or b"")
    for name, said in headers:
        size += len(name) + len(said or b"")
    return size


def _check_written(
    written: Sequence[tuple[Destination, range, asyncio.Future[Any]]], results: Sequence[Any]
) -> dict[Destination, int]:
    """Return each destination's next offset behind the transaction's marker.

    Raises the error of a send that failed; first one that is for good, because batches after it in
    the same partition fail only for their sequence numbers."""
    failed = [
        (destination, places, error)
        for (destination, places, _), error in zip(written, results, strict=True)
        if isinstance(error, BaseException)
    ]
    for destination, places, error in failed:
        if isinstance(error, _RECORD_REFUSED):
            raise _BatchRefusedError(destination, places, error)
    for _, _, error in failed:
        raise error
    return {
        destination: where.offset + len(places) + 1
        for (destination, places, _), where in zip(written, results, strict=True)
    }


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _raise_for(error_code: int) -> None:
    error = for_code(error_code)
    if error is not NoError:
        raise error()


async def stop_quietly(producer: AIOKafkaProducer) -> None:
    """Stop a producer within some seconds, even if it is fenced or its broker is away, where its
    own stop can hang. Raises nothing."""
    if not await within(_STOP_SECONDS, producer.stop()):
        # Otherwise it would go on trying for as long as this process lives.
        sender = producer._sender.sender_task
        if sender is not None:
            sender.cancel()
        await within(_STOP_SECONDS, producer.client.close())
    transaction = producer._txn_manager.wait_for_transaction_end()
    if transaction is not None and transaction.done() and not transaction.cancelled():
        transaction.exception()  # of a fenced one nobody has asked for it


async def learn(client: AIOKafkaClient, topics: Iterable[str]) -> None:
    """Fetch the metadata of the topics that a client doesn't know with one request. aiokafka itself
    would ask for each at its first use, and some of these requests come 0.1 s apart."""
    await asyncio.gather(*(client.add_topic(topic) for topic in topics))


async def longest_records(client: AIOKafkaClient, topics: Iterable[str]) -> dict[str, int]:
    """Return `max.message.bytes` by topic, without the topics whose settings we may not read."""
    name = "max.message.bytes"
    resources = [(_TOPIC_RESOURCE, topic, [name]) for topic in topics]
    answer = await client.send(client.get_random_node(), DescribeConfigsRequest(resources))
    found = {}
    for resource in answer.to_object()["resources"]:
        for entry in resource["config_entries"]:
            if entry["config_names"] == name and (entry["config_value"] or "").isdigit():
                found[resource["resource_name"]] = int(entry["config_value"])
    return found


async def within(most_s: float, ending: Coroutine[Any, Any, None]) -> bool:
    """Wait up to `most_s` seconds for aiokafka code that ends something; return whether it ended.
    Raises nothing that it raises: it may leak the CancelledError of its own tasks, which the caller
    would take for its own."""
    task = asyncio.create_task(ending)
    await asyncio.wait([task], timeout=most_s)
    if not task.done():
        task.cancel()
        return False
    if task.cancelled() or task.exception() is not None:
        log.debug("aiokafka did not end well: %r", task)
        return False
    return True

"""The transaction of a cycle, on a real Kafka."""

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from streams.engine.types import TP
from streams.kafka import producer as module
from streams.kafka.producer import (
    ProducerRecord,
    RefusedRecordsError,
    TransactionalProducer,
    WrongClockError,
)
from streams.kafka.protocol import Membership
from tests import kafka_admin
from tests.installation import Installation


@pytest.fixture
async def member(installation: Installation) -> AsyncIterator[Membership]:
    """Somebody in the installation's group, who may commit its offsets."""
    consumer = AIOKafkaConsumer(
        installation.topics.calls,
        bootstrap_servers=installation.brokers,
        group_id=installation.name,
        enable_auto_commit=False,
    )
    try:
        await consumer.start()  # and be assigned
        coordinator = consumer._coordinator
        yield Membership(installation.name, coordinator.generation, coordinator.member_id)
    finally:
        await consumer.stop()


async def test_who_was_fenced_before_its_first_commit_goes_on_with_a_new_producer(
    installation: Installation, member: Membership
) -> None:
    # A worker that connects early is fenced by whoever ends what its predecessor left open; its
    # first commit, of offsets alone, is refused, and aiokafka doesn't learn why.
    options = {"bootstrap_servers": installation.brokers}
    early = TransactionalProducer(f"{installation.name}-worker", options)
    other = TransactionalProducer(f"{installation.name}-other", options)
    offsets = {TP(installation.topics.calls, 0): 0}
    try:
        await early.open()
        await other.open()
        await other.end_transaction_of(early.transactional_id)
        with pytest.raises(InvalidProducerEpoch):
            await early.commit({}, offsets, member)
        await early.end()
        await early.open()
        await early.commit({}, offsets, member)
    finally:
        await early.close()
        await other.close()


async def test_a_commit_that_was_cut_off_is_not_in_the_way_of_the_next(
    installation: Installation, member: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A takeover is cancelled by a rebalance while it commits its claims; another one follows.
    producer = TransactionalProducer(
        f"{installation.name}-worker", {"bootstrap_servers": installation.brokers}
    )
    offsets = {TP(installation.topics.calls, 0): 0}
    has_begun = asyncio.Event()

    async def hang(*args: Any) -> None:
        has_begun.set()
        await asyncio.sleep(60)

    try:
        await producer.open()
        with monkeypatch.context() as patched:
            patched.setattr(producer, "_send_offsets", hang)
            cut_off = asyncio.create_task(producer.commit({}, offsets, member))
            await has_begun.wait()
            cut_off.cancel()
            await asyncio.wait([cut_off])
        await producer.open()
        await producer.commit({}, offsets, member)
    finally:
        await producer.close()


@pytest.fixture
async def producer(installation: Installation) -> AsyncIterator[TransactionalProducer]:
    made = TransactionalProducer(
        f"{installation.name}-worker", {"bootstrap_servers": installation.brokers}
    )
    await made.open()
    yield made
    await made.close()


def _records(*values: bytes) -> list[ProducerRecord]:
    return [(b"k", value, []) for value in values]


@pytest.mark.broker
async def test_after_a_send_that_failed_the_next_commit_works(
    installation: Installation,
    member: Membership,
    producer: TransactionalProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A producer that is kept has a gap in its sequence: every commit after it fails.
    offsets = {TP(installation.topics.calls, 0): 0}
    inbox = (installation.topics.inbox_messages, 0)
    send = AIOKafkaProducer.send_batch
    sent = []

    async def lose_one(self: AIOKafkaProducer, batch: Any, topic: str, *, partition: int) -> Any:
        future = await send(self, batch, topic, partition=partition)
        sent.append(1)
        if len(sent) == 1:
            await self.flush()
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(KafkaTimeoutError())
            # As if it had not arrived: its number is taken, and nobody knows.
            self._txn_manager.increment_sequence_number(TopicPartition(topic, partition), 5)
            return failed
        return future

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", lose_one)
    with pytest.raises(KafkaTimeoutError):
        await producer.commit({inbox: _records(b"1")}, offsets, member)
    await producer.open()
    async with asyncio.timeout(60):
        await producer.commit({inbox: _records(b"2")}, offsets, member)
    assert [one.value for one in await installation.read("inbox-messages")] == [b"2"]


@pytest.mark.broker
async def test_which_records_are_refused_is_found_out_and_the_rest_committed(
    installation: Installation, member: Membership, producer: TransactionalProducer
) -> None:
    # Nothing was learned of the topic, as without the right to ask: only the broker says it.
    topic = installation.topics.inbox_messages
    await kafka_admin.take_at_most(installation, topic, 20_000)
    assert producer.longest == {}
    offsets = {TP(installation.topics.calls, 0): 0}
    values = [b"%d" % number for number in range(300)]
    values[150] = b"x" * 30_000
    other = (installation.topics.deliveries, 1)
    records = {(topic, 0): _records(*values), other: _records(b"other")}
    with pytest.raises(RefusedRecordsError) as refused:
        await producer.commit(records, offsets, member)
    assert refused.value.refused == {(topic, 0): [150]}
    assert isinstance(refused.value.error, MessageSizeTooLargeError)
    del values[150]
    await producer.commit(records | {(topic, 0): _records(*values)}, offsets, member)
    assert [one.value for one in await installation.read("inbox-messages")] == values
    assert [one.value for one in await installation.read("deliveries")] == [b"other"]


@pytest.mark.broker
async def test_a_topic_that_takes_only_small_batches_gets_small_ones(
    installation: Installation, member: Membership, producer: TransactionalProducer
) -> None:
    topic = installation.topics.inbox_messages
    await kafka_admin.take_at_most(installation, topic, 20_000)
    await producer.learn([topic, installation.topics.deliveries])
    assert producer.longest == {topic: 20_000, installation.topics.deliveries: 4 << 20}
    values = [b"%0500d" % number for number in range(100)]
    offsets = {TP(installation.topics.calls, 0): 0}
    began = producer._producer
    await producer.commit({(topic, 0): _records(*values)}, offsets, member)
    assert producer._producer is began  # nothing was refused
    with pytest.raises(RefusedRecordsError) as refused:
        await producer.commit({(topic, 0): _records(b"1", b"x" * 20_001)}, offsets, member)
    assert refused.value.refused == {(topic, 0): [1]}
    assert producer._producer is began  # the broker wasn't even asked


@pytest.mark.broker
async def test_a_clock_that_is_far_ahead_is_no_records_fault_and_is_told(
    installation: Installation,
    member: Membership,
    producer: TransactionalProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offsets, now = {TP(installation.topics.calls, 0): 0}, time.time
    inbox = (installation.topics.inbox_messages, 0)

    class Ahead(BatchBuilder):  # type: ignore[misc]
        """aiokafka's builder reads the clock in C."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._builder = Builder(self._builder)

        def _set_producer_state(self, *args: Any) -> None:
            self._builder = self._builder._theirs
            super()._set_producer_state(*args)

    class Builder:
        def __init__(self, theirs: Any) -> None:
            self._theirs = theirs

        def __getattr__(self, name: str) -> Any:
            return getattr(self._theirs, name)

        def append(self, number: int, _: None, *record: Any) -> Any:
            return self._theirs.append(number, int(time.time() * 1000), *record)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_ASK_FOR_TIME_SECONDS", 30.0)
        patched.setattr(time, "time", lambda: now() + 7384)
        patched.setattr(module, "BatchBuilder", Ahead)
        with pytest.raises(WrongClockError) as refused:
            await producer.commit({inbox: _records(b"1", b"2")}, offsets, member)
    assert inbox[0] in str(refused.value)
    # As far as a round trip, which may be a long one, lets it be known.
    assert re.search(r", 2:0[123]:\d\d ahead of Kafka's", str(refused.value))
    await producer.end()
    await producer.open()
    await producer.commit({inbox: _records(b"3")}, offsets, member)
    assert [one.value for one in await installation.read("inbox-messages")] == [b"3"]


@pytest.mark.broker
async def test_what_is_refused_before_the_offsets_are_sent_is_not_committed(
    installation: Installation, member: Membership, producer: TransactionalProducer
) -> None:
    inbox, calls = (installation.topics.inbox_messages, 0), TP(installation.topics.calls, 0)

    def refuse(ends: Mapping[Any, int]) -> None:
        assert ends == {inbox: 2}  # the record and its marker
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await producer.commit({inbox: _records(b"1")}, {calls: 7}, member, refuse)
    await producer.end()
    await producer.open()
    found = await producer.committed_offsets(member.group, [calls], require_stable=True)
    assert found[calls].offset < 0
    assert await installation.read("inbox-messages") == []


async def test_a_send_that_nobody_waits_for_any_more_complains_of_nothing() -> None:
    # The producer is fenced between two batches of one transaction: the second isn't taken.
    taken: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future()]

    class Fenced:
        async def send_batch(self, *_: object, partition: int) -> asyncio.Future[None]:
            if partition == 1:
                raise ProducerFenced
            return taken[0]

    fenced: Any = Fenced()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
    producer = TransactionalProducer("worker", {})
    records: list[ProducerRecord] = [(b"k", b"v", [])]
    written: list[Any] = []
    await producer._produce(fenced, ("topic", 0), records, None, written)
    with pytest.raises(ProducerFenced):
        await producer._produce(fenced, ("topic", 1), records, None, written)
    taken[0].set_exception(ProducerFenced())
    await asyncio.sleep(0)
    written.clear()
    taken.clear()
    gc.collect()
    assert complaints == []

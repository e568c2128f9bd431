"""The transaction of a cycle, on a real Kafka."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import InvalidProducerEpoch

from streams.engine.types import TP
from streams.kafka.producer import TransactionalProducer
from streams.kafka.protocol import Membership
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

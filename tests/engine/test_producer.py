"""The transaction of a cycle, on a real Kafka."""

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import InvalidProducerEpoch

from streams.engine.producer import TransactionalProducer
from streams.engine.protocol import Membership
from streams.engine.types import TP
from tests.installation import Installation


async def test_who_was_fenced_before_its_first_commit_goes_on_with_a_new_producer(
    installation: Installation,
) -> None:
    # A worker that connects early is fenced by whoever ends what its predecessor left open; its
    # first commit, of offsets alone, is refused, and aiokafka doesn't learn why.
    options = {"bootstrap_servers": installation.brokers}
    early = TransactionalProducer(f"{installation.name}-worker", options)
    other = TransactionalProducer(f"{installation.name}-other", options)
    offsets = {TP(installation.topics.calls, 0): 0}
    consumer = AIOKafkaConsumer(
        installation.topics.calls,
        bootstrap_servers=installation.brokers,
        group_id=installation.name,
        enable_auto_commit=False,
    )
    try:
        await consumer.start()  # and be assigned
        coordinator = consumer._coordinator
        member = Membership(installation.name, coordinator.generation, coordinator.member_id)
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
        await consumer.stop()

"""Fetches come as whole record batches, a bounded number of records at once."""

from collections.abc import AsyncIterator
from itertools import chain

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer import fetcher

from streams.kafka import fetching
from tests.installation import Installation

IN_BATCH, BATCHES = 100, 10


@pytest.fixture
async def consumer(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AIOKafkaConsumer]:
    """Of one partition that holds all the batches, well below one fetch; 150 records at once."""
    # Other tests read with aiokafka as it comes.
    for name in ("PartitionRecords", "FetchResult"):
        monkeypatch.setattr(fetcher, name, getattr(fetcher, name))
    monkeypatch.setattr(fetching._FetchResult, "most_at_once", 0)
    fetching.install()
    fetching.hand_over(150)
    tp = TopicPartition(installation.topics.calls, 0)
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers)
    await producer.start()
    for number in range(BATCHES):
        batch = producer.create_batch()
        for place in range(IN_BATCH):
            batch.append(key=None, value=b"%d" % (number * IN_BATCH + place), timestamp=None)
        await (await producer.send_batch(batch, tp.topic, partition=tp.partition))
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=installation.brokers, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([tp])
    consumer.seek(tp, 0)
    yield consumer
    await consumer.stop()


async def portion(consumer: AIOKafkaConsumer) -> list[int]:
    """Return the values of what is handed over next."""
    while True:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            return [int(record.value) for record in records]


async def test_a_fetch_is_handed_over_in_portions_that_end_with_a_batch(
    consumer: AIOKafkaConsumer,
) -> None:
    portions = []
    while sum(map(len, portions)) < IN_BATCH * BATCHES:
        portions.append(await portion(consumer))
    assert {len(one) for one in portions} == {200}
    assert list(chain(*portions)) == list(range(IN_BATCH * BATCHES))


@pytest.mark.parametrize("to", [50, 350, 900])
async def test_after_a_seek_nothing_comes_of_what_was_still_packed(
    consumer: AIOKafkaConsumer, to: int
) -> None:
    assert await portion(consumer) == list(range(200))
    [tp] = consumer.assignment()
    consumer.seek(tp, to)
    begins = await portion(consumer)
    assert begins == list(range(to, to + len(begins)))

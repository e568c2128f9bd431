"""What operators do with Kafka's own tools, and what Kafka does by itself, for one installation."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import PolicyViolationError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import OffsetAndMetadata

from app.kafka.topic_setup import create_topics
from streams.engine.types import TP
from tests.engine.inprocess import eventually
from tests.installation import Installation


@asynccontextmanager
async def _admin(installation: Installation) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.brokers)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def delete_group(installation: Installation) -> None:
    """Delete the group's offsets, as Kafka does after a stop of a week."""

    async def is_gone() -> bool:
        async with _admin(installation) as admin:
            coordinator = await admin.find_coordinator(installation.name)
            answer = await admin._client.send(coordinator, DeleteGroupsRequest([installation.name]))
        (((_, error_code),),) = [answer.results]
        name = for_code(error_code).__name__
        assert name in {"NoError", "NonEmptyGroup", "GroupIdNotFound"}, name
        return name != "NonEmptyGroup"  # its last member is leaving

    await eventually(is_gone, "the group is empty")


async def delete_before(installation: Installation, offsets: Mapping[TP, int]) -> None:
    """Delete the records before these offsets, as retention does. Waits where the topic's cleanup
    policy was changed so that it may be done: the broker doesn't go by that at once."""
    wanted = {TopicPartition(*tp): RecordsToDelete(offset) for tp, offset in offsets.items()}
    async with _admin(installation) as admin:

        async def is_done() -> bool:
            try:
                await admin.delete_records(wanted)
            except PolicyViolationError:
                return False
            return True

        await eventually(is_done, "the records may be deleted")


async def delete_topic(installation: Installation, topic: str) -> None:
    async with _admin(installation) as admin:
        await admin.delete_topics([topic])

        async def is_gone() -> bool:
            return topic not in await admin.list_topics()

        await eventually(is_gone, f"{topic} is gone")


async def make_anew(installation: Installation, topic: str) -> None:
    """Delete a topic and create it again."""
    await delete_topic(installation, topic)

    async def is_made() -> bool:
        # While the old one's files are being deleted, Kafka refuses the name.
        await create_topics(installation.settings())
        async with _admin(installation) as admin:
            return topic in await admin.list_topics()

    await eventually(is_made, f"{topic} is there")


async def make_foreign(
    installation: Installation, topic: str, partitions: int | None = None
) -> None:
    """Create a topic with Kafka's default settings, as another program would. `partitions`: None:
    as many as the installation's."""
    new = NewTopic(topic, partitions or installation.partitions, 1)

    async def is_made() -> bool:
        # While an older one's files are being deleted, Kafka refuses the name.
        async with _admin(installation) as admin:
            await admin.create_topics([new])
            return topic in await admin.list_topics()

    await eventually(is_made, f"{topic} is there")


async def offsets(installation: Installation, topic: str) -> dict[int, int | None]:
    """Return partition → the group's offset of a topic."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=installation.brokers, group_id=installation.name, enable_auto_commit=False
    )
    try:
        await consumer.start()
        return {
            number: await consumer.committed(TopicPartition(topic, number))
            for number in range(installation.partitions)
        }
    finally:
        await consumer.stop()


async def bounds(installation: Installation, topic: str, partition: int = 0) -> tuple[int, int]:
    """Return the first and the end offset of a partition's log."""
    tp = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(bootstrap_servers=installation.brokers)
    try:
        await consumer.start()
        begins, ends = await consumer.beginning_offsets([tp]), await consumer.end_offsets([tp])
        return begins[tp], ends[tp]
    finally:
        await consumer.stop()


async def reset_offsets(installation: Installation, wanted: Mapping[TP, int]) -> None:
    """Set offsets as `kafka-consumer-groups --reset-offsets --execute` does: without metadata."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=installation.brokers, group_id=installation.name, enable_auto_commit=False
    )
    try:
        await consumer.start()
        tps = {TopicPartition(*tp): offset for tp, offset in wanted.items()}
        consumer.assign(list(tps))
        await consumer.commit({tp: OffsetAndMetadata(offset, "") for tp, offset in tps.items()})
    finally:
        await consumer.stop()


async def reset_to_current(installation: Installation, topics: list[str]) -> None:
    """Set the present offsets again, as `--to-current` does: then they are an operator's choice."""
    wanted = {}
    for topic in topics:
        for number, offset in (await offsets(installation, topic)).items():
            if offset is not None:
                wanted[TP(topic, number)] = offset
    await reset_offsets(installation, wanted)


async def take_at_most(installation: Installation, topic: str, most: int) -> None:
    """Lower a topic's `max.message.bytes`; return when the logs of all its partitions go by it."""
    await installation.configure(topic, {"max.message.bytes": str(most)})
    # Too long, and so far ahead that it is refused in any case: the length is looked at first.
    long, ahead_ms = b"x" * (most + 1), int((time.time() + 7 * 86_400) * 1000)
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers)

    async def is_too_long(partition: int) -> bool:
        try:
            await producer.send_and_wait(topic, long, partition=partition, timestamp_ms=ahead_ms)
        except errors.InvalidTimestampError:
            return False
        except errors.MessageSizeTooLargeError:
            return True
        raise AssertionError(f"{topic} took a record from next week")

    try:
        await producer.start()
        for number in range(installation.partitions):
            await eventually(lambda at=number: is_too_long(at), f"{topic}-{number} goes by it")
    finally:
        await producer.stop()

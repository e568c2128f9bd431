"""The ticker: the leading worker publishes ticks to every partition.

The leader is the worker that has partition 0 of `ticks`. Two leaders for a moment, or none, do no
harm: a tick says what time it is, not how much time has passed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, tzinfo

from aiokafka.errors import KafkaError

from streams.records import Tick, encode

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
GIVE_UP_SECONDS = 90.0


async def publish_ticks(
    publish: Callable[[str, bytes | None, bytes, int], Awaitable[None]],
    is_leader: Callable[[], bool],
    *,
    topic: str,
    partitions: int,
    every_s: float,
    zone: tzinfo,
) -> None:
    """Publish a tick to each partition every `every_s` seconds, while this worker leads; runs until
    cancelled. A tick that fails is skipped.

    A new leader publishes at once, because there may have been none for a while. A partition that
    can't be written gets no tick, and doesn't delay the others.
    """
    clock = asyncio.get_running_loop().time
    due = 0.0
    under_way: dict[int, asyncio.Task[None]] = {}

    async def publish_into(partition: int, value: bytes) -> None:
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await publish(topic, None, value, partition)
        except (KafkaError, TimeoutError) as error:
            log.warning("a tick could not be published in partition %d: %r", partition, error)

    try:
        while True:
            for partition in [number for number, task in under_way.items() if task.done()]:
                under_way.pop(partition).result()  # any error but Kafka's is a bug
            if not is_leader():
                due = 0.0
            elif clock() >= due:
                due = clock() + every_s
                now = datetime.now(UTC).astimezone(zone).isoformat(timespec="milliseconds")
                value = encode(Tick(now))
                if under_way:
                    log.warning("no tick in partitions %s: the last isn't written", [*under_way])
                for partition in {*range(partitions)} - under_way.keys():
                    under_way[partition] = asyncio.create_task(publish_into(partition, value))
            await asyncio.sleep(min(every_s, LOOK_SECONDS))
    finally:
        for task in under_way.values():
            task.cancel()

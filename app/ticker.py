"""Time, as an event: the leading worker publishes a tick into every partition.

The leader is who holds partition 0 of `ticks`. Two leaders for a moment, or none, do no harm:
ticks say what time it is, not that time passed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, tzinfo

from aiokafka.errors import KafkaError

from streams.records import Tick, encode

log = logging.getLogger(__name__)


async def publish_ticks(
    publish: Callable[[str, bytes | None, bytes, int], Awaitable[None]],
    is_leader: Callable[[], bool],
    *,
    topic: str,
    partitions: int,
    every_s: float,
    zone: tzinfo,
) -> None:
    """Publish ticks for as long as this runs; one that fails is left out."""
    while True:
        if is_leader():
            now = datetime.now(UTC).astimezone(zone).isoformat(timespec="milliseconds")
            value = encode(Tick(now))
            try:
                for partition in range(partitions):
                    await publish(topic, None, value, partition)
            except KafkaError as error:
                log.warning("a tick could not be published: %r", error)
        await asyncio.sleep(every_s)

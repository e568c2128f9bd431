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

LOOK_SECONDS = 1.0


async def publish_ticks(
    publish: Callable[[str, bytes | None, bytes, int], Awaitable[None]],
    is_leader: Callable[[], bool],
    *,
    topic: str,
    partitions: int,
    every_s: float,
    zone: tzinfo,
) -> None:
    """Publish ticks for as long as this runs; one that fails is left out.

    Who becomes the leader publishes at once: there may have been none for a while.
    """
    clock = asyncio.get_running_loop().time
    due = 0.0
    while True:
        if not is_leader():
            due = 0.0
        elif clock() >= due:
            due = clock() + every_s
            now = datetime.now(UTC).astimezone(zone).isoformat(timespec="milliseconds")
            value = encode(Tick(now))
            try:
                await asyncio.gather(
                    *(publish(topic, None, value, partition) for partition in range(partitions))
                )
            except KafkaError as error:
                log.warning("a tick could not be published: %r", error)
        await asyncio.sleep(min(every_s, LOOK_SECONDS))

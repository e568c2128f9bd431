"""Single records from outside the engine: ticks, callbacks, the sending service."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from streams.kafka.producer import within

CLOSE_SECONDS = 3.0


class Publisher:
    """An idempotent producer that connects when it is first needed."""

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._options = client_options
        self._producer: AIOKafkaProducer | None = None
        # Callbacks come many at once; each would start a producer of its own.
        self._starting = asyncio.Lock()

    async def publish(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None = None
    ) -> None:
        """Return when Kafka has the record on all in-sync replicas. Raises KafkaError."""
        producer = await self._started()
        await producer.send_and_wait(topic, value, key=key, partition=partition)

    async def close(self) -> None:
        """Send what is under way and disconnect. Bounded: Kafka may be away."""
        if self._producer is not None:
            await within(CLOSE_SECONDS, self._producer.stop())

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._options, acks="all", enable_idempotence=True, linger_ms=0
                )
                try:
                    await producer.start()
                except BaseException:
                    await within(CLOSE_SECONDS, producer.stop())
                    raise
                self._producer = producer
        return self._producer

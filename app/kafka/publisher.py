"""Single records from outside the engine: ticks, callbacks, the sending service."""

import asyncio
import logging
import time
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from app.kafka.admin import SAY_AGAIN_SECONDS
from streams.kafka.producer import stop_quietly
from streams.kafka.rights import forbidden

log = logging.getLogger(__name__)

# An idempotent producer tries again by itself: the longer it is waited for, the fewer are those of
# whom nobody knows whether Kafka has them.
PUBLISH_SECONDS = 30.0
# What is still being sent gets half of it.
CLOSE_SECONDS = 6.0


class Publisher:
    """An idempotent producer that connects when it is first needed.

    After any failed record a new one: the old one's sequence may have a gap, and then Kafka refuses
    whatever it sends.
    """

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._options = client_options
        self._producer: AIOKafkaProducer | None = None
        # Callbacks come many at once; each would start a producer of its own.
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._next_word = 0.0

    async def publish(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None = None
    ) -> None:
        """Return when Kafka has the record on all in-sync replicas. Bounded; raises KafkaError.

        A KafkaTimeoutError, and whoever is cancelled, leaves it unknown whether Kafka will have it.
        """
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                producer = await self._started()
                sent = await producer.send(topic, value, key=key, partition=partition)
                # Looked at also when nobody waits for it any more.
                sent.add_done_callback(lambda done: self._on_sent(producer, done))
                await asyncio.shield(sent)
        except TimeoutError:
            raise KafkaTimeoutError from None
        except KafkaError as error:
            self._tell_what_is_forbidden(error)
            raise

    def _tell_what_is_forbidden(self, error: KafkaError) -> None:
        """Callers know neither the right nor the user."""
        told, now = forbidden(error, self._options, operation="Write"), time.monotonic()
        if told is not None and now >= self._next_word:
            self._next_word = now + SAY_AGAIN_SECONDS
            log.error("%s", told)

    async def close(self) -> None:
        """Send what is under way and disconnect. Bounded: Kafka may be away."""
        ending: set[asyncio.Task[Any]] = set(self._stopping)
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            ending.add(self._starting)
        producer, self._producer = self._producer, None
        if producer is not None:
            ending.add(asyncio.create_task(stop_quietly(producer)))
        if ending:
            await asyncio.wait(ending, timeout=CLOSE_SECONDS)

    def _on_sent(self, producer: AIOKafkaProducer, sent: "asyncio.Future[Any]") -> None:
        if not sent.cancelled() and sent.exception() is None:
            return
        if self._producer is producer:
            self._producer = None
            # What others gave it is still sent, where that is possible.
            stopping = asyncio.create_task(stop_quietly(producer))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._start())
                # Whoever waits for it may be gone by the time it fails.
                self._starting.add_done_callback(lambda done: done.cancelled() or done.exception())
            return await asyncio.shield(self._starting)
        return self._producer

    async def _start(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            request_timeout_ms=int(PUBLISH_SECONDS * 1000),
        )
        try:
            await producer.start()
        except AssertionError:
            # Of a broker that was away, aiokafka asserts that it knows of one.
            await stop_quietly(producer)
            raise KafkaConnectionError("Kafka doesn't answer") from None
        except BaseException:
            await stop_quietly(producer)
            raise
        self._producer = producer
        return producer

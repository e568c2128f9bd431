"""Publishing single records outside of the engine: ticks, WeChat's events, the sending service's
commands."""

import asyncio
import logging
import time
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
)

from app.kafka.admin import SAY_AGAIN_SECONDS
from streams.kafka.producer import WrongClockError, stop_quietly
from streams.kafka.rights import forbidden

log = logging.getLogger(__name__)

# How long to wait for a record. An idempotent producer tries again by itself, so that the longer it
# has, the fewer records end without anybody knowing whether Kafka has them.
PUBLISH_SECONDS = 30.0
# Half of it is for the records that are still being sent.
CLOSE_SECONDS = 6.0


class Publisher:
    """An idempotent producer that connects when it is first needed.

    After a failed record it makes a new one: the old one's sequence may have a gap, and then Kafka
    would refuse all further records.
    """

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._options = client_options
        self._producer: AIOKafkaProducer | None = None
        # Shared, because many callbacks may come at once and each would start a producer.
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._next_word = 0.0

    async def publish(
        self, topic: str, key: bytes | None, value: bytes, partition: int | None = None
    ) -> None:
        """Publish a record; return when all in-sync replicas have it. Takes bounded time; raises
        KafkaError.

        After a KafkaTimeoutError or a cancellation it is unknown whether Kafka gets the record.
        """
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                producer = await self._started()
                sent = await producer.send(topic, value, key=key, partition=partition)
                # Called even where the caller doesn't wait any more.
                sent.add_done_callback(lambda done: self._on_sent(producer, done))
                await asyncio.shield(sent)
        except TimeoutError:
            raise KafkaTimeoutError from None
        except KafkaError as error:
            self._tell_what_to_do(topic, error)
            raise

    def _tell_what_to_do(self, topic: str, error: KafkaError) -> None:
        """Log which right is missing for which user, or that a clock is wrong: the callers know
        neither."""
        now = time.monotonic()
        told: Exception | None = forbidden(error, self._options, operation="Write")
        if isinstance(error, InvalidTimestampError):
            told = WrongClockError(topic)
        if told is not None and now >= self._next_word:
            self._next_word = now + SAY_AGAIN_SECONDS
            log.error("%s", told)

    async def close(self) -> None:
        """Send what is under way and disconnect, within bounded time even if Kafka is away."""
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
            # Records that other callers gave it are still sent if possible.
            stopping = asyncio.create_task(stop_quietly(producer))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._start())
                # Nobody may be waiting any more when it fails: take note of its exception.
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
            # After a broker was away, an assertion of aiokafka may fail (it knows no broker).
            await stop_quietly(producer)
            raise KafkaConnectionError("Kafka doesn't answer") from None
        except BaseException:
            await stop_quietly(producer)
            raise
        self._producer = producer
        return producer

"""The transactional producer for a command. It has one id for each purpose in a group, so the one
opened last fences the others. Which records are written isn't known here."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced

from app.settings import Settings
from streams.engine import fault_points
from streams.engine.types import Header
from streams.kafka.producer import stop_quietly

FENCED = (ProducerFenced, InvalidProducerEpoch)
"""What a producer raises once another of its purpose is opened."""

_TRANSACTION_MS = 60_000


async def open_producer(settings: Settings, purpose: str) -> AIOKafkaProducer:
    """Return a started producer, after fencing earlier ones of this purpose and ending the
    transactions that they left open."""
    producer = AIOKafkaProducer(
        **settings.kafka_client_options(),
        transactional_id=f"{settings.group}-{purpose}",
        transaction_timeout_ms=_TRANSACTION_MS,
        acks="all",
        linger_ms=0,
        max_request_size=16 << 20,
    )
    try:
        await producer.start()
    except BaseException:
        await close_producer(producer)
        raise
    return producer


class Outgoing(NamedTuple):
    """A record to write. Without a partition its key says which."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


async def send_all(producer: AIOKafkaProducer, records: Iterable[Outgoing]) -> None:
    """Write records within the transaction that is open, and wait until Kafka has them all. Raises
    the first error; none but a new producer can go on then."""
    sent: list[asyncio.Future[object]] = []
    stopped = None
    try:
        for topic, partition, key, value, headers in records:
            sent.append(
                await producer.send(
                    topic, value, key=key, partition=partition, headers=list(headers)
                )
            )
    except Exception as error:
        # A producer that was fenced while it sends takes no more records, but says only that no
        # transaction is open. What it has sent says why.
        stopped = error
    fault_points.passing(fault_points.HALF_PRODUCED)
    for done in await asyncio.gather(*sent, return_exceptions=True):
        if isinstance(done, BaseException):
            raise done
    if stopped is not None:
        raise stopped


async def close_producer(producer: AIOKafkaProducer | None) -> None:
    """Disconnect. An open transaction is aborted by the next producer, or times out."""
    if producer is not None:
        await stop_quietly(producer)

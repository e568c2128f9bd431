"""The transactional producer for a command. It has one id for each purpose in a group, so the one
opened last fences the others. Which records are written isn't known here."""

from aiokafka import AIOKafkaProducer

from app.settings import Settings
from streams.kafka.producer import within

_STOP_SECONDS = 3.0
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


async def close_producer(producer: AIOKafkaProducer | None) -> None:
    """Disconnect. An open transaction is aborted by the next producer, or times out."""
    if producer is not None:
        await within(_STOP_SECONDS, producer.stop())

"""The producer of a command that writes in transactions, under one id of the group: whoever opened
last is the only one. Which records a transaction holds isn't known here."""

from aiokafka import AIOKafkaProducer

from app.settings import Settings
from streams.kafka.producer import within

_STOP_SECONDS = 3.0
_TRANSACTION_MS = 60_000


async def open_producer(settings: Settings, purpose: str) -> AIOKafkaProducer:
    """Fence whoever opened one for this purpose before, and end what they left open."""
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
    """Disconnect; what is open is aborted by whoever opens next, or by time."""
    if producer is not None:
        await within(_STOP_SECONDS, producer.stop())

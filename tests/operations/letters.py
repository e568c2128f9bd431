"""Dead letters for tests, as agents write them, and what an order makes of them."""

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from agents.dead_letters import dead_letter
from app.operations.installation import open_installation
from app.operations.redrive import Order, carry_out
from app.operations.transactional_producer import close_producer, open_producer
from streams.engine.types import Header
from streams.records import Channel, Delivery, Notification, Status, encode
from tests.installation import Installation, Published

AT = "2019-01-30T15:52:10+08:00"


def letter(topic: str, key: bytes | None, value: bytes | None, **given: Any) -> Any:
    """What an agent emits for a record of a topic, by its real name."""
    return dead_letter(
        "dead-letters",
        **(
            {"topic": topic, "partition": 0, "offset": 0, "key": key, "value": value}
            | {"reason": "x: is wrong", "at": AT}
            | given
        ),
    )


async def bury(installation: Installation, *letters: Any, more: Sequence[Header] = ()) -> list[str]:
    """Publish dead letters, with `more` headers at their end; return their names."""
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers, max_request_size=4 << 20)
    await producer.start()
    try:
        sent = [
            await producer.send_and_wait(
                installation.topics.dead_letters,
                one.value,
                key=one.key,
                headers=[*one.headers, *more],
                partition=0 if one.key is None else None,
            )
            for one in letters
        ]
    finally:
        await producer.stop()
    return [f"{where.partition}:{where.offset}" for where in sent]


async def order(
    installation: Installation, *letters: str, verb: Any = "redrive", **given: Any
) -> dict[str, Any]:
    """Carry an order out; return when what it committed can be read."""
    async with open_installation(installation.settings()) as connected:
        done = await carry_out(connected, Order(verb, letters, **given))
    if done["executed"]:
        # A producer of its transactional id starts only when the last one's markers are written.
        await close_producer(await open_producer(installation.settings(), "dead-letters"))
    return done


def command(notification_id: str, account_id: str = "acme", channel: Channel = "sms") -> bytes:
    """The value of a command."""
    return encode(
        Notification(notification_id, "low_balance", account_id, channel, AT, "t", "c", None, {})
    )


async def ended(
    installation: Installation, notification_id: str, *ends: tuple[Status, str | None]
) -> None:
    """Publish how a command of acme's ended."""
    await installation.publish(
        Published(
            "deliveries",
            "acme",
            encode(
                Delivery(notification_id, "sms", "acme", "low_balance", status, 1, AT, error=error)
            ),
        )
        for status, error in ends
    )


def actions(done: dict[str, Any]) -> dict[str, str]:
    """By letter, what was done with it."""
    return {row["letter"]: row["action"] for row in done["letters"]}


async def records_of(installation: Installation, topic: str) -> list[Any]:
    """All records of a contract topic, in the order of partition and offset."""
    found = await installation.read(topic)
    return sorted(found, key=lambda record: (record.partition, record.offset))

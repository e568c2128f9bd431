"""How agents speak: commands into `notifications`, what nobody can use into `dead-letters`."""

from collections.abc import Sequence

from agents.dead_letters import dead_letter
from streams import metrics
from streams.engine.types import Batch, Output, Record
from streams.records import Notification, encode
from streams.topics import Topics


def tell(
    polled: Batch,
    topics: Topics,
    commands: Sequence[Notification],
    partition: int | None,
    *,
    is_urgent: bool = True,
) -> None:
    """Publish commands, with this cycle; urgent ones at once.

    `partition`: of the account's state, where that is known; None: where its key puts it.
    """
    for command in commands:
        key = (command.account_id or "").encode()
        polled.emit(Output(topics.notifications, partition, key, encode(command)))
        metrics.NOTIFICATIONS.labels(command.scenario, command.channel).inc()
    if commands and is_urgent:
        polled.hurry()


def bury(polled: Batch, topics: Topics, record: Record, reason: str) -> None:
    """Put an invalid record away. Nothing else happens to it."""
    polled.emit(
        dead_letter(
            topics.dead_letters,
            topic=polled.tp.topic,
            partition=polled.tp.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            reason=reason,
        )
    )

"""The dispatch agent: commands to where they are carried out.

An inbox message is a record, so it is delivered here, exactly once, in the same transaction.
WeChat and SMS are HTTP: their commands go on to the outboxes of the group, so that a provider
that is away holds up nothing but its own messages.
"""

from collections.abc import Sequence
from datetime import tzinfo

from agents import metrics
from agents.telling import readable
from streams.decoding import cause_as_it_came, decode_notification
from streams.engine.types import Chunk, Header, Origin, Output, Record
from streams.records import Delivery, InboxMessage, Notification, encode
from streams.times import format_moment
from streams.topics import Topics

_BULK = "announcement"
"""What everybody is told: nobody waits for it."""
COORDINATES = ("dialwatch.topic", "dialwatch.partition", "dialwatch.offset")
"""The last headers of a command in an outbox: where it stood in `notifications`."""


class DispatchAgent:
    """Folds `notifications`."""

    def __init__(self, topics: Topics, zone: tzinfo) -> None:
        self._topics = topics
        self._zone = zone

    def fold(self, polled: Chunk) -> None:
        """Fold one poll of one partition."""
        at, delivered = format_moment(polled.now, self._zone), 0
        inbox_messages, deliveries = self._topics.inbox_messages, self._topics.deliveries
        for record, command in readable(polled, self._topics, self._zone, decode_notification):
            if command.scenario != _BULK:
                polled.hurry()
            if command.channel == "inbox":
                message, delivery = _delivered(command, record.value, at)
                told = Output(deliveries, None, record.key, encode(delivery))
                origin = Origin(polled.tp, record, told)
                polled.emit(Output(inbox_messages, None, record.key, encode(message), [], origin))
                polled.emit(told)
                delivered += 1
            else:
                polled.emit(
                    Output(
                        self._outbox(command),
                        polled.tp.partition,
                        record.key,
                        record.value,
                        _with_coordinates(polled, record),
                    )
                )

        if delivered:
            metrics.DELIVERIES.labels("inbox", "sent", "").inc(delivered)

    def _outbox(self, command: Notification) -> str:
        is_bulk = command.scenario == _BULK
        if command.channel == "wechat":
            return self._topics.wechat_bulk_outbox if is_bulk else self._topics.wechat_outbox
        return self._topics.sms_bulk_outbox if is_bulk else self._topics.sms_outbox


def _delivered(
    command: Notification, value: bytes | None, at: str
) -> tuple[InboxMessage, Delivery]:
    """Return what the inbox shows, and that it does. `value`: the command's bytes; `at`: this
    moment, see `format_moment`."""
    notification_id, scenario = command.notification_id, command.scenario
    # Only wechat may have none: a valid command's key is its account.
    account_id = command.account_id or ""
    return (
        InboxMessage(
            notification_id,
            account_id,
            scenario,
            command.title,
            command.content,
            command.page,
            cause_as_it_came(value, command),
            command.occurred_at,
        ),
        Delivery(notification_id, "inbox", account_id, scenario, "sent", 1, at),
    )


def _with_coordinates(polled: Chunk, record: Record) -> list[Header]:
    """Return a command's headers and where it stood, for the dead letter it may become."""
    where = (polled.tp.topic, polled.tp.partition, record.offset)
    ours = [(name, str(said).encode()) for name, said in zip(COORDINATES, where, strict=True)]
    return [*record.headers, *ours]


def origin_of(headers: Sequence[Header]) -> tuple[list[Header], tuple[str, int, int] | None]:
    """Take the headers of a command in an outbox apart: its own, and where it stood in
    `notifications`; None: dispatch didn't write them."""
    own, ours = headers[: -len(COORDINATES)], headers[-len(COORDINATES) :]
    if tuple(name for name, _ in ours) != COORDINATES:
        return list(headers), None
    topic, partition, offset = ((said or b"").decode() for _, said in ours)
    return list(own), (topic, int(partition), int(offset))

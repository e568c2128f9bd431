"""The dispatch agent: commands to where they are carried out.

An inbox message is a record, so it is delivered here, exactly once, in the same transaction.
WeChat and SMS are HTTP: their commands go on to the outboxes of the group, so that a provider
that is away holds up nothing but its own messages.
"""

from datetime import tzinfo

from agents import metrics
from agents.telling import readable
from streams.decoding import decode_notification
from streams.engine.types import Chunk, Output, Record
from streams.records import Delivery, InboxMessage, Notification, encode
from streams.times import format_moment
from streams.topics import Topics

_BULK = "announcement"
"""What everybody is told: nobody waits for it."""
COORDINATES = ("dialwatch.topic", "dialwatch.partition", "dialwatch.offset")
"""The last headers of a command in an outbox: where it stood in `notifications`."""

_LONG_COMMAND_BYTES = 512 << 10


class DispatchAgent:
    """Folds `notifications`."""

    def __init__(self, topics: Topics, zone: tzinfo) -> None:
        self._topics = topics
        self._zone = zone

    def fold(self, polled: Chunk) -> None:
        """Fold one poll of one partition."""
        for record, command in readable(polled, self._topics, self._zone, decode_notification):
            if command.scenario != _BULK:
                polled.hurry()
            if command.channel == "inbox":
                self._deliver(polled, command)
            else:
                polled.emit(
                    Output(
                        self._outbox(command),
                        polled.tp.partition,
                        record.key,
                        _as_short_as_it_can_be(record.value or b"", command),
                        _with_coordinates(polled, record),
                    )
                )

    def _outbox(self, command: Notification) -> str:
        is_bulk = command.scenario == _BULK
        if command.channel == "wechat":
            return self._topics.wechat_bulk_outbox if is_bulk else self._topics.wechat_outbox
        return self._topics.sms_bulk_outbox if is_bulk else self._topics.sms_outbox

    def _deliver(self, polled: Chunk, command: Notification) -> None:
        account_id = command.account_id or ""
        message = InboxMessage(
            message_id=command.notification_id,
            account_id=account_id,
            scenario=command.scenario,
            title=command.title,
            content=command.content,
            page=command.page,
            cause=command.cause,
            created_at=command.occurred_at,
        )
        delivery = Delivery(
            notification_id=command.notification_id,
            channel="inbox",
            account_id=account_id,
            scenario=command.scenario,
            status="sent",
            attempts=1,
            at=format_moment(polled.now, self._zone),
        )
        key = account_id.encode()
        polled.emit(Output(self._topics.inbox_messages, None, key, encode(message)))
        polled.emit(Output(self._topics.deliveries, None, key, encode(delivery)))
        metrics.DELIVERIES.labels("inbox", "sent", "").inc()


def _as_short_as_it_can_be(value: bytes, command: Notification) -> bytes:
    """Leave out of a long command what nobody knows: with its headers it must fit once more."""
    return value if len(value) <= _LONG_COMMAND_BYTES else encode(command)


def _with_coordinates(polled: Chunk, record: Record) -> list[tuple[str, bytes]]:
    """Return a command's headers and where it stood, for the dead letter it may become."""
    where = (polled.tp.topic, polled.tp.partition, record.offset)
    ours = [(name, str(said).encode()) for name, said in zip(COORDINATES, where, strict=True)]
    return [*record.headers, *ours]

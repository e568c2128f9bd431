"""What is written in place of a record that Kafka refuses for good: its topic lacks it, we don't.

A command that is too long for its outbox goes on without what nobody knows of it; one that can't go
on, and one whose inbox message can't be written, ends as failed, and in the dead letters; a dead
letter that is too long is cut.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import tzinfo

from agents import metrics
from agents.clock import wall_clock
from agents.dead_letters import TRUNCATED, attempts_of, dead_letter, own_headers
from agents.dispatch import origin_of
from streams.decoding import InvalidRecordError, cause_as_it_came, decode_notification
from streams.engine.refused import RefusedRecord
from streams.engine.types import Header, Output
from streams.records import Delivery, Notification, encode
from streams.times import format_moment
from streams.topics import Topics

log = logging.getLogger(__name__)

# A record's own frame in a log, with the batch that it is alone in.
_FRAME_BYTES = 200
_UNKNOWN_LIMIT = 900_000
_TOO_LONG = ("MessageSizeTooLargeError", "RecordListTooLargeError")
_NO_OFFSET = -1


def instead_of(topics: Topics, zone: tzinfo) -> Callable[[RefusedRecord], list[Output]]:
    """Return the function that maps a refused record to the records to write in its place."""
    outboxes = {
        topics.wechat_outbox,
        topics.wechat_bulk_outbox,
        topics.sms_outbox,
        topics.sms_bulk_outbox,
    }

    def instead(refused: RefusedRecord) -> list[Output]:
        if refused.topic == topics.dead_letters:
            return _cut(refused)
        shorter = _without_the_unknown(refused) if refused.topic in outboxes else None
        if shorter is not None:
            return [shorter]
        log.error("%s refuses a record: %s", refused.topic, refused.reason)
        at = format_moment(wall_clock(), zone)
        outputs = [_letter(topics, refused, at)]
        if refused.origin is not None:
            key, value = refused.origin.record.key, refused.origin.record.value
        elif refused.topic in outboxes:
            key, value = refused.key, refused.value
        else:
            return outputs
        try:
            command = decode_notification(key, value)
        except InvalidRecordError:
            return outputs
        failed = _failed(command, refused, at)
        return [*outputs, Output(topics.deliveries, None, key, encode(failed))]

    return instead


def _without_the_unknown(refused: RefusedRecord) -> Output | None:
    """Return a long command without the fields that nobody knows, and with its length before: the
    headers that an outbox adds to it may be too much. None: it would be refused too."""
    own, _ = origin_of(refused.headers)
    if refused.reason not in _TOO_LONG or any(name == TRUNCATED for name, _ in own):
        return None
    try:
        command = decode_notification(refused.key, refused.value)
    except InvalidRecordError:
        return None
    command.cause = cause_as_it_came(refused.value, command)
    value = encode(command)
    # What says how often it was a letter stays the last of its own.
    before_last = len(own) - bool(attempts_of(own[-1:]))
    headers = list(refused.headers)
    headers.insert(before_last, (TRUNCATED, str(len(refused.value or b"")).encode()))
    most = (refused.longest or _UNKNOWN_LIMIT) - _FRAME_BYTES - _size(headers)
    if len(value) + len(refused.key or b"") > most:
        return None
    return Output(refused.topic, refused.partition, refused.key, value, headers)


def _letter(topics: Topics, refused: RefusedRecord, at: str) -> Output:
    key, value = refused.key, refused.value
    if refused.origin is not None:
        (topic, partition), record, _ = refused.origin
        offset, key, value, own = record.offset, record.key, record.value, list(record.headers)
    else:
        own, where = origin_of(refused.headers)
        topic, partition, offset = where or (refused.topic, refused.partition, _NO_OFFSET)
    return dead_letter(
        topics.dead_letters,
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        reason=f"value: {refused.topic} doesn't take it ({refused.reason})",
        at=at,
        headers=own,
    )


def _failed(command: Notification, refused: RefusedRecord, at: str) -> Delivery:
    metrics.DELIVERIES.labels(command.channel, "failed", "").inc()
    return Delivery(
        notification_id=command.notification_id,
        channel=command.channel,
        account_id=command.account_id,
        scenario=command.scenario,
        status="failed",
        attempts=0,
        at=at,
        error=f"{refused.topic} doesn't take it ({refused.reason})",
    )


def _cut(refused: RefusedRecord) -> list[Output]:
    """Cut a letter to what its topic takes: its value, then its key, then its own headers; these
    first where they alone are too long."""
    key, value, own = refused.key, refused.value, own_headers(refused.headers)
    block = refused.headers[len(own) :]
    whole = dict(block).get(TRUNCATED) or str(len(value or key or b"")).encode()
    headers = [*own, *((name, said) for name, said in block if name != TRUNCATED)]
    most = (refused.longest or _UNKNOWN_LIMIT) - _FRAME_BYTES - _size(headers)
    ours = headers[len(own_headers(headers)) :]
    if most <= 0 and len(ours) < len(headers):
        headers = ours
    elif value:
        value = value[: _shorter(len(value), most - len(key or b""))]
    elif key:
        key = key[: _shorter(len(key), most)]
    else:
        if len(ours) == len(headers):
            log.error("%s takes not even an empty letter: %s", refused.topic, refused.reason)
            return []
        headers = ours
    return [Output(refused.topic, refused.partition, key, value, [*headers, (TRUNCATED, whole)])]


def _shorter(length: int, room: int) -> int:
    # What fits by our count, and is refused still, is refused for more than we know.
    return max(min(room, length // 2) if room >= length else room, 0)


def _size(headers: Sequence[Header]) -> int:
    return sum(len(name) + len(said or b"") + 10 for name, said in headers)

"""How folds emit: commands into `notifications`, invalid records into `dead-letters`."""

from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from functools import cache
from typing import TypeVar

from prometheus_client import Counter

from agents import metrics
from agents.dead_letters import dead_letter
from streams import tracing
from streams.decoding import InvalidRecordError
from streams.engine.types import TP, Chunk, Header, Output, Record
from streams.records import Notification, Scenario, encode
from streams.times import format_moment
from streams.topics import Topics

R = TypeVar("R")


CAUSE = "dialwatch.cause"
"""The header that names the record which a command comes of: `call-records/3/1234`."""


def cause_of(tp: TP, offset: int) -> str:
    """Return the name of a record, as the header gives it."""
    return f"{tp.topic}/{tp.partition}/{offset}"


def tell(
    polled: Chunk,
    topics: Topics,
    commands: Sequence[Notification],
    partition: int | None,
    *,
    cause: int | str,
    is_urgent: bool = True,
) -> None:
    """Emit commands with this cycle, which is committed at once where they are urgent.

    `partition`: of the account's state, where that is known; None: the partition of the key.
    `cause`: the record that caused them, by its offset in this chunk or by its name ("": unknown).
    """
    if not commands:
        return
    name = cause if isinstance(cause, str) else cause_of(polled.tp, cause)
    headers: list[Header] = [(CAUSE, name.encode())] if name else []
    traces = tracing.on()
    caused_by = None if traces is None else _traceparent(polled, cause)
    for command in commands:
        key = (command.account_id or "").encode()
        own = headers
        if traces is not None:
            own = headers + traces.noticed(
                command.notification_id,
                command.scenario,
                command.channel,
                cause=name,
                caused_by=caused_by,
                now=polled.now,
            )
        polled.emit(Output(topics.notifications, partition, key, encode(command), own))
        _counter(command.scenario, command.channel).inc()
    if is_urgent:
        polled.hurry()


def _traceparent(polled: Chunk, cause: int | str) -> bytes | None:
    """Return the trace of the record that fired, where it is in this chunk."""
    for record in polled.records if isinstance(cause, int) else ():
        if record.offset == cause:
            return tracing.traceparent_of(record.headers)
    return None


@cache
def _counter(scenario: str, channel: str) -> Counter:
    """Return a counter of a closed set: to look one up costs as much as to encode a command."""
    return metrics.NOTIFICATIONS.labels(scenario, channel)


def noticed(scenario: Scenario, commands: list[Notification]) -> list[Notification]:
    """Return the commands of what was noticed; count it where the account wants no channel."""
    if not commands:
        metrics.SUPPRESSED.labels(scenario, "no_channel").inc()
    return commands


def readable(
    polled: Chunk, topics: Topics, zone: tzinfo, decode: Callable[[bytes | None, bytes | None], R]
) -> Iterator[tuple[Record, R]]:
    """Yield each valid record with its decoded value, while there is room for what the fold emits.
    Invalid records become dead letters."""
    for record in polled.in_turn():
        try:
            said = decode(record.key, record.value)
        except InvalidRecordError as error:
            bury(polled, topics, zone, record, str(error))
        else:
            yield record, said


def bury(polled: Chunk, topics: Topics, zone: tzinfo, record: Record, reason: str) -> None:
    """Emit an invalid record as a dead letter."""
    polled.emit(
        dead_letter(
            topics.dead_letters,
            topic=polled.tp.topic,
            partition=polled.tp.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            reason=reason,
            at=format_moment(polled.now, zone),
            headers=record.headers,
        )
    )

"""The newest deliveries and dead letters, read from their topics when the page is requested.

These are customers' data: check the access rule (`access.py`) first. Accounts are masked all the
same, and the records' content isn't shown, only their place and what became of them.
"""

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from aiokafka import AIOKafkaConsumer

from streams.topics import Topics

SHOWN = 50
# How many offsets to read back. Each commit writes a marker, so that there are more offsets than
# records.
_OFFSETS_BACK = 200
_READ_SECONDS = 3.0


class DeliveryLine(NamedTuple):
    """What became of one command."""

    at: str
    account: str
    scenario: str
    channel: str
    status: str
    why: str
    attempts: int
    notification: str


class LetterLine(NamedTuple):
    """The place of an invalid record, and what is wrong with it."""

    at: str
    topic: str
    partition: str
    offset: str
    reason: str


async def read_recent(
    client_options: dict[str, Any], topics: Topics, zone: ZoneInfo, wanted: Mapping[str, str]
) -> tuple[list[DeliveryLine], list[LetterLine]]:
    """Return the newest deliveries and dead letters, newest first. `wanted`: field → the value that
    a delivery must have.

    Takes up to some seconds. Raises KafkaError or OSError where Kafka is away.
    """
    names = [topics.deliveries, topics.dead_letters]
    # Without a group the consumer is assigned all partitions of its topics.
    consumer = AIOKafkaConsumer(
        *names,
        **client_options,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        records = await _tail(consumer, names)
    finally:
        await consumer.stop()
    deliveries = [_delivery(one.value, zone) for one in records[topics.deliveries]]
    letters = [_letter(one, zone) for one in records[topics.dead_letters]]
    chosen = [
        line
        for line in deliveries
        if all(getattr(line, field) == value for field, value in wanted.items())
    ]
    return chosen[:SHOWN], letters[:SHOWN]


async def _tail(consumer: AIOKafkaConsumer, names: list[str]) -> dict[str, list[Any]]:
    """Return topic → its last records, newest first. In a worker's process records don't know their
    topic (see `streams/kafka/fetching.py`)."""
    tps = list(consumer.assignment())
    begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    for tp in tps:
        consumer.seek(tp, max(begins[tp], ends[tp] - _OFFSETS_BACK))
    records: dict[str, list[Any]] = {name: [] for name in names}
    now = asyncio.get_running_loop().time
    deadline = now() + _READ_SECONDS
    # Don't wait long for records behind an open transaction.
    while now() < deadline and [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
        for tp, batch in (await consumer.getmany(timeout_ms=200)).items():
            records[tp.topic] += batch
    for found in records.values():
        found.sort(key=lambda record: record.timestamp, reverse=True)
    return records


def _delivery(value: bytes, zone: ZoneInfo) -> DeliveryLine:
    said = json.loads(value)
    return DeliveryLine(
        at=_moment(said["at"], zone),
        account=masked(said.get("account_id") or ""),
        scenario=said["scenario"],
        channel=said["channel"],
        status=said["status"],
        why=said.get("error") or "",
        attempts=said["attempts"],
        notification=said["notification_id"],
    )


def _letter(record: Any, zone: ZoneInfo) -> LetterLine:
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    return LetterLine(
        at=_moment(headers.get("dialwatch.at", ""), zone),
        topic=headers.get("dialwatch.topic", ""),
        partition=headers.get("dialwatch.partition", ""),
        offset=headers.get("dialwatch.offset", ""),
        reason=headers.get("dialwatch.reason", ""),
    )


def masked(name: str) -> str:
    """Return a part of an account's id, enough to tell it from others."""
    return f"{name[:2]}…{name[-2:]}" if len(name) > 5 else "…" if name else "–"


def _moment(text: str, zone: ZoneInfo) -> str:
    """Return a time for people, without its zone, which the page shows once."""
    try:
        return datetime.fromisoformat(text).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return text

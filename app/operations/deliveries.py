"""What became of notifications, newest first, from the end of `deliveries` backwards.

An account's deliveries lie in one partition; what is looked for by bytes that few records have is
found without unpacking the others. The commands they come of are looked up for title and time.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, NamedTuple

import msgspec

from app.operations.installation import Installation
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END
from streams.records import Delivery
from streams.times import DAY, SECOND, format_instant, parse_instant

MOST_ROWS = 100_000
USUAL_ROWS = 100
# A delivery is written when it has happened; clocks differ a little. One whose commit was lost is
# written again, later, with its old time.
_EARLIER = 60 * SECOND
_LATER = DAY
# How long before its end a command may lie: longer the sender remembers none.
_COMMAND_BEFORE = 8 * DAY
_FEW = 8


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries; None: any. `since` is inclusive and `until` exclusive, instants."""

    account: str | None = None
    notification: str | None = None
    scenario: str | None = None
    channel: str | None = None
    status: str | None = None
    since: int | None = None
    until: int | None = None
    limit: int = USUAL_ROWS

    def has(self, delivery: Delivery) -> bool:
        """Whether a delivery is one of them."""
        if (
            (self.account is not None and delivery.account_id != self.account)
            or (self.notification is not None and delivery.notification_id != self.notification)
            or (self.scenario is not None and delivery.scenario != self.scenario)
            or (self.channel is not None and delivery.channel != self.channel)
            or (self.status is not None and delivery.status != self.status)
        ):
            return False
        if self.since is None and self.until is None:
            return True
        at = parse_instant(delivery.at)
        is_late_enough = self.since is None or at >= self.since
        return is_late_enough and (self.until is None or at < self.until)

    def bytes(self) -> tuple[bytes, ...]:
        """Return bytes that every one of them holds, the rarest that there are."""
        if self.notification is not None:
            return (_inside(self.notification),)
        if self.account is not None:
            return (self.account.encode(),)  # the record's key
        if self.status is not None:
            return (_field("status", self.status),)
        if self.scenario is not None:
            return (_field("scenario", self.scenario),)
        return () if self.channel is None else (_field("channel", self.channel),)


class Found(NamedTuple):
    """A delivery, and where and when it was written."""

    delivery: Delivery
    key: bytes | None
    timestamp: int
    place: tuple[int, int]
    """Partition and offset."""


class _CommandTitle(msgspec.Struct):
    notification_id: str
    occurred_at: str | None = None
    title: str | None = None


_decode = msgspec.json.Decoder(Delivery).decode
_decode_command = msgspec.json.Decoder(_CommandTitle).decode


async def find_deliveries(
    installation: Installation, wanted: DeliveryFilter
) -> list[dict[str, Any]]:
    """Return deliveries as `dialwatch deliveries` prints them, newest first."""
    found = await look_for(installation, wanted)
    commands = await _commands_of(installation, found)
    zone = installation.settings.zone
    return [_row(one.delivery, commands.get(one.delivery.notification_id), zone) for one in found]


async def look_for(
    installation: Installation, wanted: DeliveryFilter, *, most_back: int | None = None
) -> list[Found]:
    """Return deliveries themselves, newest first. `most_back`: so many offsets of each partition
    are looked at, from its end."""
    topic = installation.topics.deliveries
    tps = installation.partitions(topic)
    if wanted.account is not None:
        tps = [installation.partition(topic, wanted.account.encode())]
    logs = installation.logs
    begins = await logs.offsets(tps, _timestamp(wanted.since, -_EARLIER, BEGINNING))
    ends = await logs.offsets(tps, _timestamp(wanted.until, _LATER, END))
    if most_back is not None:
        begins = {tp: max(begins[tp], ends[tp] - most_back) for tp in tps}
    parts = await asyncio.gather(
        *(_newest(installation, tp, begins[tp], ends[tp], wanted) for tp in tps)
    )
    found = [one for part in parts for one in part]
    found.sort(key=lambda one: (parse_instant(one.delivery.at), one.place), reverse=True)
    return found[: wanted.limit]


async def is_known(installation: Installation, notification_id: str) -> bool:
    """Whether a notification has a delivery, or at least a command."""
    if await look_for(installation, DeliveryFilter(notification=notification_id, limit=1)):
        return True
    logs = installation.logs
    tps = installation.partitions(installation.topics.notifications)
    begins, ends = await logs.offsets(tps, BEGINNING), await logs.offsets(tps, END)

    async def holds(tp: TP) -> bool:
        text = (_inside(notification_id),)
        async for records in logs.scan_back(tp, begins[tp], ends[tp], text):
            if any(_id_of(record.value) == notification_id for record in records):
                return True
        return False

    return any(await asyncio.gather(*map(holds, tps)))


async def _newest(
    installation: Installation, tp: TP, begin: int, end: int, wanted: DeliveryFilter
) -> list[Found]:
    found: list[Found] = []
    async for records in installation.logs.scan_back(tp, begin, end, wanted.bytes()):
        for record in records:
            delivery = _delivery(record.value)
            if delivery is not None and wanted.has(delivery):
                found.append(
                    Found(delivery, record.key, record.timestamp, (tp.partition, record.offset))
                )
                if len(found) == wanted.limit:
                    return found
    return found


async def _commands_of(
    installation: Installation, found: Iterable[Found]
) -> dict[str, _CommandTitle]:
    """Return the commands of deliveries by notification id; one that is gone is missing."""
    topic = installation.topics.notifications
    by_partition: dict[TP, list[Found]] = {}
    for one in found:
        tp = installation.partition(topic, one.key or b"")
        by_partition.setdefault(tp, []).append(one)
    parts = await asyncio.gather(
        *(_commands_in(installation, tp, some) for tp, some in by_partition.items())
    )
    return {command.notification_id: command for part in parts for command in part}


async def _commands_in(
    installation: Installation, tp: TP, found: list[Found]
) -> list[_CommandTitle]:
    logs = installation.logs
    left = {one.delivery.notification_id for one in found}
    keys = {one.key for one in found}
    times = [one.timestamp * 1000 for one in found]
    begins = await logs.offsets([tp], _timestamp(min(times), -_COMMAND_BEFORE, BEGINNING))
    ends = await logs.offsets([tp], _timestamp(max(times), _EARLIER, END))
    wanted = tuple(map(_inside, left)) if len(left) <= _FEW else ()
    if not wanted and len(keys) == 1:
        wanted = tuple(key for key in keys if key)
    commands = []
    async for records in logs.scan_back(tp, begins[tp], ends[tp], wanted):
        for record in records:
            if record.key not in keys:
                continue
            command = _command(record.value)
            if command is not None and command.notification_id in left:
                left.discard(command.notification_id)
                commands.append(command)
        if not left:
            break
    return commands


def _row(delivery: Delivery, command: _CommandTitle | None, zone: tzinfo) -> dict[str, Any]:
    return {
        "notification_id": delivery.notification_id,
        "account_id": delivery.account_id,
        "scenario": delivery.scenario,
        "channel": delivery.channel,
        "status": delivery.status,
        "error": delivery.error,
        "error_code": delivery.error_code,
        "attempts": delivery.attempts,
        "at": _local(delivery.at, zone),
        "occurred_at": None if command is None else _local(command.occurred_at, zone),
        "title": None if command is None else command.title,
    }


def in_zone(delivery: Delivery, zone: tzinfo) -> Delivery:
    """Return a delivery with its time as answers say it."""
    return msgspec.structs.replace(delivery, at=_local(delivery.at, zone))


def _delivery(value: bytes | None) -> Delivery | None:
    try:
        delivery = _decode(value or b"")
        parse_instant(delivery.at)
    except (msgspec.MsgspecError, ValueError):
        return None  # nobody but us writes there; what isn't ours isn't shown
    return delivery


def _command(value: bytes | None) -> _CommandTitle | None:
    try:
        return _decode_command(value or b"")
    except (msgspec.MsgspecError, ValueError):
        return None


def _id_of(value: bytes | None) -> str | None:
    command = _command(value)
    return None if command is None else command.notification_id


def _local(text: str | None, zone: tzinfo) -> str | None:
    """Return a record's time in the settings' zone; as it stands where it is none."""
    if text is None:
        return None
    try:
        return format_instant(parse_instant(text), zone)
    except ValueError:
        return text


def _timestamp(instant: int | None, change: int, otherwise: int) -> int:
    """Return an instant, moved, as Kafka's milliseconds; `otherwise` where there is none."""
    return otherwise if instant is None else max(0, (instant + change) // 1000)


def _inside(text: str) -> bytes:
    """Return a text as it stands within a JSON string."""
    return msgspec.json.encode(text)[1:-1]


def _field(name: str, value: str) -> bytes:
    return f'"{name}":'.encode() + msgspec.json.encode(value)

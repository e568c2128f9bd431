"""Finding deliveries, newest first, by reading `deliveries` backwards from its end.

An account's deliveries are in one partition, and where the topic was given more partitions the old
ones in another. Batches without the bytes that are looked for aren't unpacked. The deliveries'
commands are looked up for title and time.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any, NamedTuple

import msgspec

from app.operations.commands import ShownCommand, bytes_of_ids, inside, read_command
from app.operations.installation import Installation
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END, Wanted
from streams.records import Delivery
from streams.times import DAY, SECOND, format_instant, parse_instant

MOST_ROWS = 100_000
USUAL_ROWS = 100
# A record may be written a little before its own time, since clocks differ. It may also be written
# much later: if its commit was lost, it is written again with its old time.
_EARLIER = 60 * SECOND
_LATER = DAY
# How long before its delivery a command may have been written: for longer no sender remembers it.
_COMMAND_BEFORE = 8 * DAY
# Of an account, a partition that isn't its home is searched as a whole only where the first records
# of a longer range show that others lay there too before there were more partitions.
_SEARCHED_ANYWAY = 100_000
_SHOWING = 10_000
# More ids than these cost more to search for than unpacking all records.
_MOST_SEARCHED = 200
# How many partitions are searched for commands at the same time: each holds what it unpacked.
_AT_ONCE = 4


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries are wanted; None: any. `since` (inclusive) and `until` are instants."""

    account: str | None = None
    notification: str | None = None
    scenario: str | None = None
    channel: str | None = None
    status: str | None = None
    since: int | None = None
    until: int | None = None
    limit: int = USUAL_ROWS

    def has(self, delivery: Delivery) -> bool:
        """Is a delivery wanted?"""
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
        """Return bytes that every wanted record contains; of several the rarest."""
        if self.notification is not None:
            return (inside(self.notification),)
        if self.account is not None:
            return (self.account.encode(),)  # the record's key
        if self.status is not None:
            return (_field("status", self.status),)
        if self.scenario is not None:
            return (_field("scenario", self.scenario),)
        return () if self.channel is None else (_field("channel", self.channel),)


class Found(NamedTuple):
    """A delivery, with its place in Kafka and the time of its record."""

    delivery: Delivery
    key: bytes | None
    timestamp: int
    place: tuple[int, int]
    """Partition and offset."""


_decode = msgspec.json.Decoder(Delivery).decode


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
    """Return the wanted deliveries, newest first. `most_back`: how many offsets of each partition
    to search, from its end; None: all. Of an account: as many of its home, and as many of all
    others together."""
    topic = installation.topics.deliveries
    tps = installation.partitions(topic)
    found: list[Found] = []
    if wanted.account is not None:
        # What its home holds is usually all, and tells how far back the others are to be searched.
        home = installation.partition(topic, wanted.account.encode())
        tps.remove(home)
        found = await _look_in(installation, [home], wanted, most_back)
        if len(found) == wanted.limit:
            wanted = replace(wanted, since=parse_instant(found[-1].delivery.at))
        if most_back is not None and tps:
            most_back //= len(tps)
    found += await _look_in(installation, tps, wanted, most_back)
    return _newest_first(found)[: wanted.limit]


async def _look_in(
    installation: Installation, tps: list[TP], wanted: DeliveryFilter, most_back: int | None
) -> list[Found]:
    logs = installation.logs
    begins = await logs.offsets(tps, _timestamp(wanted.since, -_EARLIER, BEGINNING))
    ends = await logs.offsets(tps, _timestamp(wanted.until, _LATER, END))
    if most_back is not None:
        begins = {tp: max(begins[tp], ends[tp] - most_back) for tp in tps}
    parts = await asyncio.gather(
        *(_newest(installation, tp, begins[tp], ends[tp], wanted) for tp in tps)
    )
    return _newest_first(one for part in parts for one in part)


async def _may_hold(
    installation: Installation, tp: TP, begin: int, end: int, wanted: DeliveryFilter
) -> bool:
    """May a partition hold what is wanted? Most installations never got more partitions: then an
    account's deliveries are in its home alone, and the other logs needn't be read."""
    if wanted.account is None or end - begin <= _SEARCHED_ANYWAY:
        return True
    if tp == installation.partition(tp.topic, wanted.account.encode()):
        return True
    # What lay there before comes first.
    async for records in installation.logs.scan(tp, begin, min(end, begin + _SHOWING)):
        for record in records:
            if record.key is not None and installation.partition(tp.topic, record.key) != tp:
                return True
    return False


def _newest_first(found: Iterable[Found]) -> list[Found]:
    return sorted(found, key=lambda one: (parse_instant(one.delivery.at), one.place), reverse=True)


async def is_known(installation: Installation, notification_id: str) -> bool:
    """Is there a delivery, or at least a command, of a notification?"""
    if await look_for(installation, DeliveryFilter(notification=notification_id, limit=1)):
        return True
    logs = installation.logs
    tps = installation.partitions(installation.topics.notifications)
    begins, ends = await logs.offsets(tps, BEGINNING), await logs.offsets(tps, END)

    async def holds(tp: TP) -> bool:
        wanted = bytes_of_ids([notification_id])
        async for records in logs.scan_back(tp, begins[tp], ends[tp], wanted):
            for record in records:
                command = _command(record)
                if command is not None and command.notification_id == notification_id:
                    return True
        return False

    return any(await asyncio.gather(*map(holds, tps)))


async def _newest(
    installation: Installation, tp: TP, begin: int, end: int, wanted: DeliveryFilter
) -> list[Found]:
    found: list[Found] = []
    if not await _may_hold(installation, tp, begin, end, wanted):
        return found
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
) -> dict[str, ShownCommand]:
    """Return notification id → command of deliveries, without commands that are gone.

    1. Look where a command's key belongs. 2. Look everywhere for the others: the topic may have got
    more partitions since, and a command without a key may be in any.
    """
    topic = installation.topics.notifications
    commands: dict[str, ShownCommand] = {}
    homes: dict[TP, list[Found]] = {}
    for one in found:
        if one.key is not None:
            homes.setdefault(installation.partition(topic, one.key), []).append(one)

    at_once = asyncio.Semaphore(_AT_ONCE)

    async def look(tp: TP, some: list[Found]) -> None:
        async with at_once:
            left = [one for one in some if one.delivery.notification_id not in commands]
            if left:
                await _commands_in(installation, tp, left, commands)

    async def look_in(places: dict[TP, list[Found]]) -> None:
        await asyncio.gather(*(look(tp, some) for tp, some in places.items()))

    await look_in(homes)
    left = [one for one in found if one.delivery.notification_id not in commands]
    if left:
        await look_in(dict.fromkeys(installation.partitions(topic), left))
    return commands


async def _commands_in(
    installation: Installation, tp: TP, found: list[Found], commands: dict[str, ShownCommand]
) -> None:
    """Add the commands of deliveries that are in one partition to `commands`. Those that come
    meanwhile aren't looked for."""
    logs = installation.logs
    ids = {one.delivery.notification_id for one in found}
    keys = {one.key for one in found}
    times = [one.timestamp * 1000 for one in found]
    begins = await logs.offsets([tp], _timestamp(min(times), -_COMMAND_BEFORE, BEGINNING))
    ends = await logs.offsets([tp], _timestamp(max(times), _LATER, END))
    # Other systems write there too: one's clock may be fast, or its times in units of its own, and
    # what comes behind its record counts as well.
    if ends == await logs.offsets([tp], _timestamp(time.time_ns() // 1000, _LATER, END)):
        ends = await logs.offsets([tp], END)
    wanted: tuple[Wanted, ...] = ()
    if len(ids) <= _MOST_SEARCHED:
        wanted = bytes_of_ids(ids)
    elif len(keys) == 1:
        wanted = tuple(key for key in keys if key)
    async for records in logs.scan_back(tp, begins[tp], ends[tp], wanted):
        for record in records:
            if record.key not in keys:
                continue
            command = _command(record)
            if command is not None and command.notification_id in ids:
                commands.setdefault(command.notification_id, command)
        if ids <= commands.keys():
            break


def _row(delivery: Delivery, command: ShownCommand | None, zone: tzinfo) -> dict[str, Any]:
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
    """Return a delivery with its time in the settings' zone."""
    return msgspec.structs.replace(delivery, at=_local(delivery.at, zone))


def _delivery(value: bytes | None) -> Delivery | None:
    try:
        delivery = _decode(value or b"")
        parse_instant(delivery.at)
    except (ValueError, RecursionError):
        return None  # only dialwatch may write there: other records aren't shown
    return delivery


def _command(record: Any) -> ShownCommand | None:
    try:
        return read_command(record.key, record.value)
    except (ValueError, RecursionError):
        return None


def _local(text: str | None, zone: tzinfo) -> str | None:
    """Return a record's time in the settings' zone; unchanged where it isn't a time."""
    if text is None:
        return None
    try:
        return format_instant(parse_instant(text), zone)
    except ValueError:
        return text


def _timestamp(instant: int | None, change: int, otherwise: int) -> int:
    """Return an instant plus `change` as Kafka's timestamp (ms); `otherwise` where it is None."""
    return otherwise if instant is None else max(0, (instant + change) // 1000)


def _field(name: str, value: str) -> bytes:
    return f'"{name}":'.encode() + msgspec.json.encode(value)

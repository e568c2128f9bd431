"""Giving a whole installation more partitions: its topics, its state and the records of `accounts`.

With another number of partitions nearly every key belongs to another partition, its home. So, while
the group is stopped:

1. drain    a worker of our own folds and sends what is unread, until nothing is left
2. state    the group's own topics get their partitions; each value of the changelogs moves home
3. topics   the contract's topics get theirs; the records of `accounts` move home, a tombstone
            stays where each lay
4. strays   what was published into an old partition meanwhile is published again at home, and the
            group's offset is set behind the original
5. ticks    last of all: until its count is the others' no worker starts

Each step checks what exists and does what is left, in transactions that have all of a key. So it
may be killed at any point and run again. Publishers must be stopped; step 4 deals with those that
were not.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from app.errors import CommandError
from app.kafka.admin import ClusterAdmin, open_admin
from app.local.worker import WorkerProcess
from app.operations.installation import CONNECT_SECONDS, Installation
from app.operations.lag import group_lag, positions_of, read_topics, said_positions
from app.operations.moved import MOVED, has_moved, trail_of
from app.operations.transactional_producer import (
    FENCED,
    Outgoing,
    close_producer,
    open_producer,
    send_all,
)
from app.settings import PREFIX, Settings
from streams.engine import fault_points
from streams.engine.outbox import UNFINISHED
from streams.engine.positions import (
    ORIGIN,
    POSITIONS,
    Gap,
    Missing,
    Position,
    is_another,
    tell,
)
from streams.engine.types import TP, Header
from streams.kafka.log_reader import topic_ids
from streams.kafka.log_scan import BEGINNING, END, LogScan
from streams.kafka.producer import learn
from streams.topics import Topics, partition_of
from tables.customers import Customer
from tables.state_tables import ANNOUNCED, CLOCKS, CUSTOMERS, PartitionClock, owner_of

log = logging.getLogger(__name__)

_CHUNK = 1_000
_LOOK_AGAIN_SECONDS = 0.5
_DRAIN_SECONDS = 3600.0


class Expansion(NamedTuple):
    """The present and the wanted number of partitions."""

    old: int
    new: int
    is_begun: bool
    """Did an earlier run begin it?"""


class Plan(NamedTuple):
    """What `expand` shows before it does anything."""

    expansion: Expansion
    topics: dict[str, int]
    """The topics that get more partitions, with their present number."""
    unread: int
    """How many records are folded first."""
    members: int
    """How many workers run: there must be none."""


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[tuple[ClusterAdmin, LogScan]]:
    async with open_admin(settings, timeout_s=CONNECT_SECONDS) as admin:
        yield admin, LogScan(admin.client)


async def plan(settings: Settings, wanted: int) -> Plan:
    """Return the plan. Raises CommandError where it can't be carried out."""
    async with _open(settings) as (admin, logs):
        counts = await logs.partition_counts()
        expansion = _expansion(settings.topics, counts, wanted)
        await _check_logs(settings, admin, logs, counts, expansion)
        topics = {name: counts[name] for name in _all(settings.topics) if name in counts}
        return Plan(
            expansion,
            {name: count for name, count in topics.items() if count < wanted},
            0 if expansion.is_begun else await _unread(settings, admin, logs, counts, expansion),
            len(await admin.members(settings.group)),
        )


async def expand(settings: Settings, wanted: int, say: Callable[[str], None]) -> Expansion:
    """Carry it out; `say` gets a line for each step. Raises CommandError; it may be run again after
    any error."""
    async with _open(settings) as (admin, logs):
        counts = await logs.partition_counts()
        expansion = _expansion(settings.topics, counts, wanted)
        if expansion.old == expansion.new:
            return expansion
        members = await admin.members(settings.group)
        if members:
            raise CommandError(
                f"{len(members)} workers of group {settings.group} run: stop them and all "
                "publishers, then run this again"
            )
        await _check_logs(settings, admin, logs, counts, expansion)
        if not expansion.is_begun:
            say("folding and sending what is unread")
            await _drain(settings, admin, logs, counts, expansion)
        mover = _Mover(settings, admin, logs, expansion)
        try:
            await mover.open()
            await mover.run(say)
        except FENCED:
            raise CommandError(
                "another expand began meanwhile and goes on alone: wait for it, then run this "
                "again to see that it is done"
            ) from None
        finally:
            await mover.close()
    return expansion


def _all(topics: Topics) -> list[str]:
    return [topic.name for topic in [*topics.internal(), *topics.contract()]]


def _expansion(topics: Topics, counts: Mapping[str, int], wanted: int) -> Expansion:
    """Return the expansion to do, also where an earlier run was interrupted."""
    standing = {name: counts[name] for name in _all(topics) if name in counts}
    if topics.ticks not in standing or topics.changelog not in standing:
        raise CommandError(
            f"there is no {topics.ticks if topics.ticks not in standing else topics.changelog}: "
            "nothing is to be expanded; dialwatch topics create makes topics of any size"
        )
    old, found = standing[topics.ticks], sorted(set(standing.values()))
    if wanted < max(found):
        raise CommandError(
            f"topics have up to {max(found)} partitions, and Kafka takes none away: --partitions "
            f"must be at least {max(found)}"
        )
    foreign = {name: count for name, count in standing.items() if count not in {old, wanted}}
    if foreign:
        name, count = next(iter(foreign.items()))
        raise CommandError(
            f"{name} has {count} partitions, others {old}: go on with --partitions {count}, as "
            "was begun"
        )
    return Expansion(old, wanted, is_begun=len(found) > 1)


async def _check_logs(
    settings: Settings,
    admin: ClusterAdmin,
    logs: LogScan,
    counts: Mapping[str, int],
    expansion: Expansion,
) -> None:
    """Raise CommandError where the group goes on behind a log's end, or in a topic that was made
    anew: no worker starts then, and what is left to read isn't known."""
    topics, group = settings.topics, settings.group
    names = [name for name in read_topics(topics) if name in counts]
    tps = [TP(name, number) for name in names for number in range(expansion.old)]
    offsets = await admin.committed_offsets(group)
    said = await said_positions(logs, topics.changelog, [tp for tp in tps if tp not in offsets])
    ids = await topic_ids(admin.client, names)
    begins, ends = await logs.offsets(tps, BEGINNING), await logs.offsets(tps, END)
    gaps = []
    for tp in tps:
        known = said.get(tp, Position(offsets.get(tp, 0)))
        is_anew = is_another(known.topic_id, ids.get(tp.topic, b""))
        if is_anew or known.offset > ends[tp]:
            what = Missing.MADE_ANEW if is_anew else Missing.CUT_SHORT
            gaps.append(Gap(what, tp, known.offset, begins[tp], ends[tp]))
    if gaps:
        raise CommandError(
            tell(
                gaps,
                group=group,
                changelog=topics.changelog,
                read_first=[topics.accounts],
                brokers=settings.kafka_bootstrap_servers,
            )
        )


async def _unread(
    settings: Settings,
    admin: ClusterAdmin,
    logs: LogScan,
    counts: dict[str, int],
    expansion: Expansion,
) -> int:
    """Return how many records the group has not folded or sent yet."""
    topics = Topics(settings.topic_prefix, settings.group, expansion.old)
    lag = await group_lag(Installation(settings, topics, counts, admin, logs))
    return sum(row["lag"] for row in lag["partitions"])


async def _drain(
    settings: Settings,
    admin: ClusterAdmin,
    logs: LogScan,
    counts: dict[str, int],
    expansion: Expansion,
) -> None:
    """Run a worker, without ticks, until it has folded and sent everything."""
    if not await _unread(settings, admin, logs, counts, expansion):
        return
    environment = _environment(settings)
    deadline = asyncio.get_running_loop().time() + _DRAIN_SECONDS
    with tempfile.TemporaryDirectory() as directory:
        worker = WorkerProcess(Path(directory), environment)
        await asyncio.to_thread(worker.launch)
        try:
            while await _unread(settings, admin, logs, counts, expansion):
                worker.check()
                if asyncio.get_running_loop().time() > deadline:
                    raise CommandError(
                        "an hour was not enough to fold and send what is unread: is a channel on "
                        "hold? dialwatch lag says what waits; run this again when it is sent"
                    )
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        finally:
            await asyncio.to_thread(worker.stop)


def _environment(settings: Settings) -> dict[str, str]:
    """Return the present settings as environment variables for a worker."""
    said = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is None or name in {"datadir", "web_port", "web_host", "tick_seconds"}:
            continue
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        said[f"{PREFIX}{name.upper()}"] = (
            text.strftime("%H:%M") if hasattr(text, "strftime") else str(text)
        )
    return said | {f"{PREFIX}TICK_SECONDS": "0"}


@dataclass
class _Move:
    """Records to write in one transaction."""

    records: list[Outgoing]
    offsets: dict[TP, int]


class _Mover:
    """Moves records and state. The one opened last fences all others."""

    def __init__(
        self, settings: Settings, admin: ClusterAdmin, logs: LogScan, expansion: Expansion
    ) -> None:
        self._settings = settings
        self._topics = Topics(settings.topic_prefix, settings.group, expansion.new)
        self._admin = admin
        self._logs = logs
        self._expansion = expansion
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """Fence earlier movers, and end the transactions that they left open."""
        self._producer = await open_producer(self._settings, "expand")

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        await close_producer(producer)

    async def run(self, say: Callable[[str], None]) -> None:
        """Do steps 2 to 5."""
        topics, old = self._topics, self._expansion.old
        tick, announced = await self._survey()
        say("the group's own topics and its state")
        await self._raise([topic.name for topic in topics.internal()])
        for number in range(old):
            await self._move_state(number)
        for number in range(old, self._expansion.new):
            await self._found(number, tick, announced)
        say("the topics of the contract")
        contract = [topic.name for topic in topics.contract() if topic.name != topics.ticks]
        await self._raise(contract)
        say("the records of accounts")
        for number in range(old):
            await self._move_accounts(number)
        for topic in (topics.recharges, topics.calls, topics.notifications):
            for number in range(old):
                await self._republish(TP(topic, number))
        await self._raise([topics.ticks])

    # -- state ------------------------------------------------------------------------------

    async def _changelog(self, number: int) -> dict[bytes, bytes]:
        """Return the values of one changelog partition: key with its table's prefix → value."""
        values: dict[bytes, bytes] = {}
        async for record in self._read(TP(self._topics.changelog, number)):
            if record.value is None:
                values.pop(record.key, None)
            else:
                values[record.key] = record.value
        return values

    async def _survey(self) -> tuple[int, dict[bytes, bytes]]:
        """Return what each partition has a copy of: the latest tick, and the announcements that
        were told. Called before anything is changed, when workers can still start and send the
        rest."""
        tick, announced = 0, dict[bytes, bytes]()
        for number in range(self._expansion.old):
            for key, value in (await self._changelog(number)).items():
                if key == CLOCKS.prefix:
                    tick = max(tick, CLOCKS.decode(value).tick)
                elif key[:1] == ANNOUNCED.prefix:
                    announced[key] = value
                elif key[:1] == UNFINISHED.prefix and not self._expansion.is_begun:
                    raise CommandError(
                        f"messages of partition {number} are not sent yet: start workers until "
                        "dialwatch lag shows none, then run this again"
                    )
        return tick, announced

    async def _move_state(self, number: int) -> None:
        """Move one partition's values to their homes: each is written there and deleted here in the
        same transaction."""
        here = TP(self._topics.changelog, number)
        values = await self._changelog(number)
        move = _Move([], {})
        for full, value in values.items():
            owner = owner_of(full[:1], full[1:])
            home = number if owner is None else partition_of(owner, self._expansion.new)
            if home == number:
                continue
            move.records.append(Outgoing(here.topic, here.partition, full, None))
            there = TP(self._topics.changelog, home)
            move.records.append(Outgoing(there.topic, there.partition, full, _at_home(full, value)))
            if len(move.records) >= 2 * _CHUNK:
                await self._write(move)
                move = _Move([], {})
        await self._write(move)

    async def _found(self, number: int, tick: int, announced: Mapping[bytes, bytes]) -> None:
        """Write into a new partition what every partition has a copy of."""
        tp = TP(self._topics.changelog, number)
        values = await self._changelog(number)
        own = {
            POSITIONS.prefix + ORIGIN: POSITIONS.encode(Position(0)),
            CLOCKS.prefix: CLOCKS.encode(PartitionClock(tick=tick, is_checked=True)),
            **announced,
        }
        await self._write(
            _Move(
                [
                    Outgoing(tp.topic, tp.partition, key, value)
                    for key, value in own.items()
                    if key not in values
                ],
                {},
            )
        )

    # -- records ----------------------------------------------------------------------------

    async def _move_accounts(self, number: int) -> None:
        """Copy each account's latest record to its home, and write a tombstone where it was."""
        here = TP(self._topics.accounts, number)
        latest: dict[bytes, tuple[bytes | None, list[Header]]] = {}
        async for record in self._read(here):
            if record.key is None or partition_of(record.key, self._expansion.new) == number:
                continue
            if has_moved(record):
                latest.pop(record.key, None)
            else:
                latest[record.key] = record.value, trail_of(here, record)
        move = _Move([], {})
        for key, (value, trail) in latest.items():
            home = partition_of(key, self._expansion.new)
            move.records.append(Outgoing(here.topic, home, key, value, trail))
            move.records.append(
                Outgoing(here.topic, here.partition, key, None, [(MOVED, str(home).encode())])
            )
            if len(move.records) >= 2 * _CHUNK:
                await self._write(move)
                move = _Move([], {})
        await self._write(move)

    async def _republish(self, here: TP) -> None:
        """Publish again, at their homes, the records that came into an old partition after it was
        drained, even those that belong here. The group's offset is set behind the originals, so
        that each is folded once, from its copy."""
        known = await self._admin.committed_offsets(self._settings.group)
        if here not in known:  # they expired: what the state has folded must not come again
            known |= await positions_of(self._admin, self._logs, self._topics.changelog, [here])
        begin = known.get(here, 0)
        move, last, strays = _Move([], {}), begin, False
        async for record in self._read(here, begin):
            last = record.offset + 1
            home = here.partition
            if record.key is not None:
                home = partition_of(record.key, self._expansion.new)
            strays |= home != here.partition
            headers = [(name, value) for name, value in record.headers]
            move.records.append(Outgoing(here.topic, home, record.key, record.value, headers))
            if len(move.records) >= _CHUNK and strays:
                await self._write(_Move(move.records, {here: last}))
                move = _Move([], {})
        if strays and move.records:
            log.warning(
                "%s-%d: %d records came in meanwhile and were published again: are all publishers "
                "stopped?",
                here.topic,
                here.partition,
                len(move.records),
            )
            await self._write(_Move(move.records, {here: last}))

    # -- Kafka ------------------------------------------------------------------------------

    async def _raise(self, names: Iterable[str]) -> None:
        """Give topics the wanted number of partitions; those that have it stay unchanged."""
        counts = await self._logs.partition_counts()
        wanted = {
            name: self._expansion.new
            for name in names
            if counts.get(name, self._expansion.new) < self._expansion.new
        }
        await self._admin.add_partitions(wanted)
        if self._producer is not None:
            await learn(self._producer.client, wanted)
            await self._producer.client.force_metadata_update()  # it knows the old numbers

    async def _read(self, tp: TP, begin: int | None = None) -> AsyncIterator[Any]:
        begins = await self._logs.offsets([tp], BEGINNING)
        ends = await self._logs.offsets([tp], END)
        start = begins[tp] if begin is None else max(begin, begins[tp])
        async for records in self._logs.scan(tp, start, ends[tp]):
            for record in records:
                yield record

    async def _write(self, move: _Move) -> None:
        """Write records and offsets in one transaction."""
        producer = self._producer
        if producer is None:
            raise RuntimeError("the mover is not open")
        if not move.records and not move.offsets:
            return
        async with producer.transaction():
            await send_all(producer, move.records)
            if move.offsets:
                await producer.send_offsets_to_transaction(
                    {
                        TopicPartition(*tp): OffsetAndMetadata(offset, "")
                        for tp, offset in move.offsets.items()
                    },
                    self._settings.group,
                )
            fault_points.passing(fault_points.BEFORE_COMMIT)
        fault_points.passing(fault_points.AFTER_COMMIT)


def _at_home(full: bytes, value: bytes) -> bytes:
    """Return a value for its new partition, without offsets of the old one, which mean nothing
    there."""
    if full[:1] != CUSTOMERS.prefix:
        return value
    customer: Customer = CUSTOMERS.decode(value)
    return CUSTOMERS.encode(msgspec.structs.replace(customer, since=-1))

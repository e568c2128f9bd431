"""The group's lag, and which member reads what.

Lag can't be computed from the logs' ends alone: markers and aborted records are never read, and
records behind an open transaction must wait. So the batches in between are counted.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from app.kafka.admin import ClusterAdmin
from app.operations.installation import Installation
from streams.engine.outbox import UNFINISHED
from streams.engine.positions import POSITIONS, Position, is_another
from streams.engine.types import TP
from streams.kafka.log_reader import topic_ids
from streams.kafka.log_scan import (
    BEGINNING,
    END,
    LogScan,
    RecordBatch,
    batches_of,
    committed,
    records_of,
)
from streams.topics import Topics

# Where the lag is larger than this, offsets are counted instead of records.
_MOST_COUNTED = 200_000
# How far back in a changelog to look for what an outbox has not finished, of which a new record is
# written with each message that ends, and for positions, which are written with each commit.
_MOST_BACK = 100_000
WORKER_CLIENT = "dialwatch-"
"""What a worker's client id begins with; its own id follows."""


class Behind(NamedTuple):
    """How many records of a partition a reader has not got yet, and the first one's timestamp
    (ms)."""

    records: int
    since: int | None


def read_topics(topics: Topics) -> list[str]:
    """Return the topics that the group reads, those of the contract first."""
    ours = [topics.calls, topics.recharges, topics.accounts, topics.ticks, topics.announcements]
    own = [topics.line_segments, topics.fan_outs, *outboxes(topics)]
    return [*ours, topics.notifications, *own]


def outboxes(topics: Topics) -> tuple[str, ...]:
    """Return the topics whose records finish in any order."""
    return (
        topics.wechat_outbox,
        topics.wechat_bulk_outbox,
        topics.sms_outbox,
        topics.sms_bulk_outbox,
    )


async def group_lag(installation: Installation, *, most_back: int = _MOST_BACK) -> dict[str, Any]:
    """Return members and lag of the group, as `dialwatch lag` prints them.

    `most_back`: how far back to look for positions that the group's offsets lack, in each changelog
    partition. Where none is found, all that the log holds counts: the answer must be quick.
    """
    group, admin, logs = installation.settings.group, installation.admin, installation.logs
    names = [name for name in read_topics(installation.topics) if name in installation.counts]
    tps = [tp for name in names for tp in installation.partitions(name)]
    members, offsets, begins, ends = await asyncio.gather(
        admin.members(group),
        admin.committed_offsets(group),
        logs.offsets(tps, BEGINNING),
        logs.offsets(tps, END),
    )
    unknown = [tp for tp in tps if tp not in offsets and begins[tp] < ends[tp]]
    changelog = installation.topics.changelog
    known = await positions_of(admin, logs, changelog, unknown, most_back=most_back) | offsets
    behind = await asyncio.gather(
        *(_behind(installation, tp, max(known.get(tp, 0), begins[tp]), ends[tp]) for tp in tps)
    )
    now_ms = time.time() * 1000
    return {
        "group": group,
        "members": [
            {
                "worker": client.removeprefix(WORKER_CLIENT)
                if client.startswith(WORKER_CLIENT)
                else member,
                "host": host.lstrip("/"),
                "partitions": _assigned(assignment, names),
            }
            for member, client, host, assignment in sorted(members)
        ],
        "partitions": [
            {
                "topic": tp.topic,
                "partition": tp.partition,
                "committed": offsets.get(tp),
                "end": ends[tp],
                "lag": found.records,
                "seconds_behind": 0.0
                if found.since is None
                else round(max(0.0, (now_ms - found.since) / 1000), 3),
            }
            for tp, found in zip(tps, behind, strict=True)
        ],
    }


async def positions_of(
    admin: ClusterAdmin,
    logs: LogScan,
    changelog: str,
    tps: Iterable[TP],
    *,
    most_back: int | None = None,
) -> dict[TP, int]:
    """Return from which offsets on a worker reads partitions of which the group has no committed
    offset (any more), as the state says; without those of which it says nothing, and those of
    topics that were made anew since. `most_back`: see `said_positions`."""
    said = await said_positions(logs, changelog, tps, most_back=most_back)
    ids = await topic_ids(admin.client, {tp.topic for tp in said}) if said else {}
    return {
        tp: known.offset
        for tp, known in said.items()
        if not is_another(known.topic_id, ids.get(tp.topic, b""))
    }


async def said_positions(
    logs: LogScan, changelog: str, tps: Iterable[TP], *, most_back: int | None = None
) -> dict[TP, Position]:
    """Return the state's positions as they are, perhaps of topics that are gone. `most_back`: how
    many offsets of each changelog partition to search, from its end; None: all."""
    keys: dict[TP, dict[bytes, TP]] = {}
    for tp in tps:
        key = POSITIONS.prefix + tp.topic.encode()
        keys.setdefault(TP(changelog, tp.partition), {})[key] = tp
    count = (await logs.partition_counts()).get(changelog, 0) if keys else 0
    found: dict[TP, Position] = {}

    async def read(log: TP, left: dict[bytes, TP]) -> None:
        begins, ends = await logs.offsets([log], BEGINNING), await logs.offsets([log], END)
        begin = begins[log] if most_back is None else max(begins[log], ends[log] - most_back)
        async for records in logs.scan_back(log, begin, ends[log], tuple(left)):
            for record in records:
                tp = left.pop(record.key, None)
                if tp is not None and record.value is not None:
                    found[tp] = POSITIONS.decode(record.value)
            if not left:
                return

    await asyncio.gather(*(read(log, left) for log, left in keys.items() if log.partition < count))
    return found


async def _behind(installation: Installation, tp: TP, begin: int, end: int) -> Behind:
    """Return how far a partition is behind. In an outbox, whose offset stays before the first
    unfinished record, later records that are finished aren't counted."""
    logs = installation.logs
    found = await behind_of(logs, tp, begin, end)
    if not found.records or tp.topic not in outboxes(installation.topics):
        return found
    last, left = await _unfinished(installation, tp)
    if last < begin:
        return found
    after = await behind_of(logs, tp, last + 1, end)
    unfinished = sum(offset >= begin for offset in left)
    records = unfinished + after.records
    return Behind(records, (found.since if unfinished else after.since) if records else None)


async def _unfinished(installation: Installation, tp: TP) -> tuple[int, list[int]]:
    """Return, from the state, the last offset that an outbox has begun (-1: unknown) and the
    offsets up to it that aren't finished."""
    logs, changelog = installation.logs, TP(installation.topics.changelog, tp.partition)
    key = UNFINISHED.prefix + tp.topic.encode()
    ends = await logs.offsets([changelog], END)
    begin = max(0, ends[changelog] - _MOST_BACK)
    async for records in logs.scan_back(changelog, begin, ends[changelog], (key,)):
        for record in records:
            if record.key == key:
                said = None if record.value is None else UNFINISHED.decode(record.value)
                return (-1, []) if said is None else (said.last, said.offsets)
    return -1, []


async def behind_of(logs: LogScan, tp: TP, begin: int, end: int) -> Behind:
    """Return what a reader of committed records, at offset `begin`, has not got yet."""
    if begin >= end:
        return Behind(0, None)
    count, since = 0, None
    stable_end = end
    async for piece in logs.pieces(tp, begin, is_committed=True):
        stable_end = piece.stable_end
        for batch in committed(batches_of(piece.raw), piece.aborted):
            records, first = _from(piece.raw, batch, begin)
            count += records
            since = first if since is None else since
        if end - begin > _MOST_COUNTED and since is not None:
            return Behind(end - begin, since)
    if stable_end < end:
        waiting = await _waiting(logs, tp, max(begin, stable_end))
        count += waiting.records
        since = waiting.since if since is None else since
    return Behind(count, since)


async def _waiting(logs: LogScan, tp: TP, begin: int) -> Behind:
    """Return the records behind an open transaction's beginning: its own and others, without
    markers and aborted records."""
    count, since = 0, None
    pending: defaultdict[int, int] = defaultdict(int)
    async for piece in logs.pieces(tp, begin, is_committed=False):
        for batch in batches_of(piece.raw):
            if batch.is_control:
                ended = pending.pop(batch.producer_id, 0)
                count += 0 if batch.is_abort else ended
                continue
            records, first = _from(piece.raw, batch, begin)
            since = first if since is None else since
            if batch.is_transactional:
                pending[batch.producer_id] += records
            else:
                count += records
    count += sum(pending.values())
    return Behind(count, since if count else None)


def _from(raw: bytes, batch: RecordBatch, begin: int) -> tuple[int, int | None]:
    """Return how many records of a batch are at `begin` or later, and the first one's timestamp."""
    if batch.base_offset >= begin:
        return batch.size, batch.timestamp if batch.size else None
    timestamps = [one.timestamp for one in records_of(raw, batch) if one.offset >= begin]
    return len(timestamps), timestamps[0] if timestamps else None


def _assigned(assignment: bytes, names: Iterable[str]) -> dict[str, list[int]]:
    """Return a member's partitions by topic; empty during a rebalance."""
    if not assignment:
        return {}
    given = dict(ConsumerProtocolMemberAssignment.decode(assignment).assignment)
    return {name: sorted(given[name]) for name in names if name in given}

"""What happens between an assignment and the first fold: settle, restore, find where to read.

1. A dead owner's pending commit is waited for, and ended if it takes long (`settle`), so that 2.
the changelogs are read up to everything that was written by then, and 3. the group's offsets and
the state's positions say where reading goes on (`place`). Only then does anything fold. Repeating
it changes nothing.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from streams.engine.hanging import HangingTransactions
from streams.engine.outbox import UNFINISHED
from streams.engine.positions import (
    ORIGIN,
    POSITIONS,
    Gap,
    Log,
    Missing,
    Position,
    Start,
    decide,
    is_another,
)
from streams.engine.state import State
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader
from streams.kafka.producer import TransactionalProducer
from streams.kafka.protocol import CommittedOffset

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.02
_PATIENCE_S = 0.5
"""A live owner finishes its commit in this time; after it the owner counts as gone."""
_END_AGAIN_S = 0.2


@dataclass
class Positions:
    """Where each source partition is read from, and where it ended just now."""

    start: dict[TP, int] = field(default_factory=dict)
    end: dict[TP, int] = field(default_factory=dict)
    topic_ids: dict[str, bytes] = field(default_factory=dict)
    is_new: set[TP] = field(default_factory=set)
    """Partitions of which the group has folded nothing yet."""
    is_decided: set[TP] = field(default_factory=set)
    """Partitions whose offset somebody set by hand."""
    claims: dict[TP, int] = field(default_factory=dict)
    """Offsets to commit before anything is folded: whoever comes next finds who was here, even if
    this worker's first transaction is its last, and that the state knows its positions."""
    gaps: list[Gap] = field(default_factory=list)
    """What is missing; where there is any, nothing else counts."""


async def place(
    reader: LogReader,
    committed: Mapping[TP, CommittedOffset],
    states: Mapping[int, State],
    *,
    own_id: str,
    read_first: Collection[str],
    outboxes: Collection[str],
    written: Collection[str],
    queues: Collection[str],
    patience_s: float,
) -> Positions:
    """Return where to read each partition from, and put into the states what they don't know.

    `own_id`: this worker's transactional id. `read_first`, `outboxes`: topics of that kind.
    `written`: those that this group's transactions write; `queues`: those that nobody else does.
    `patience_s`: how long to wait for an end that lies before what was read.
    """
    topics = {tp.topic for tp in committed}
    ids = await reader.topic_ids(topics)
    for topic in topics - ids.keys():
        raise UnknownTopicOrPartitionError(f"there is no topic {topic}")
    known = {
        tp: states[tp.partition].peek(POSITIONS, tp.topic.encode())
        for tp in committed
        if tp.partition in states
    }
    begins = await reader.beginnings(committed)
    needed = {
        tp: _read_to(offset, known.get(tp), ids[tp.topic]) for tp, offset in committed.items()
    }
    ends = await reached(reader, needed, patience_s)
    found = Positions(end=ends, topic_ids=ids)
    lost = _states_lost(committed, states, read_first)
    for tp, offset in committed.items():
        position = known.get(tp)
        stands = Log(
            begins[tp], ends[tp], ids[tp.topic], tp.topic in written, tp.topic not in queues
        )
        has_state = tp.partition in states
        start = decide(offset, position, stands, has_state=has_state)
        if tp.partition in lost:
            start = lost[tp.partition]
        if isinstance(start, Missing):
            read_to = offset.offset if position is None else max(position.offset, offset.offset)
            found.gaps.append(Gap(start, tp, read_to, begins[tp], ends[tp]))
            continue
        found.start[tp] = start.offset
        if start.is_new:
            found.is_new.add(tp)
        if start.is_decided:
            found.is_decided.add(tp)
        if has_state:
            if tp.topic in outboxes:
                _check_unfinished(found, tp, states[tp.partition], start, stands)
            _note(found, tp, states[tp.partition], start, position, offset)
    for state in states.values():
        if state.peek(POSITIONS, ORIGIN) is None:
            state.put(POSITIONS, ORIGIN, Position(0))
    owners = owners_of(committed)
    here = {tp.partition: tp for tp in found.start if committed[tp].offset >= 0}
    for number, tp in here.items():
        if own_id not in owners[number]:
            found.claims.setdefault(tp, found.start[tp])
    return found


def _read_to(committed: CommittedOffset, known: Position | None, topic_id: bytes) -> int:
    """Return up to where the log must reach."""
    is_ours = committed.metadata and committed.has_position
    if known is None or (committed.offset >= 0 and not is_ours):
        return committed.offset
    return 0 if is_another(known.topic_id, topic_id) else max(known.offset, committed.offset)


def _states_lost(
    committed: Mapping[TP, CommittedOffset],
    states: Mapping[int, State],
    read_first: Collection[str],
) -> dict[int, Missing]:
    """Return by partition number what is wrong with a state as a whole."""
    lost = {}
    for number, state in states.items():
        offsets = {tp: it for tp, it in committed.items() if tp.partition == number}
        ours = [tp for tp, it in offsets.items() if it.offset >= 0 and it.metadata]
        has_origin = state.peek(POSITIONS, ORIGIN) is not None
        if any(offsets[tp].has_position for tp in ours) and not has_origin:
            lost[number] = Missing.STATE_BEHIND
        elif not len(state) and any(tp.topic in read_first for tp in ours):
            # 0.1.0's: whoever folds accounts remembers it.
            lost[number] = Missing.STATE_BEHIND
        elif len(state) and not has_origin and all(it.offset < 0 for it in offsets.values()):
            lost[number] = Missing.OFFSETS_EXPIRED
    return lost


def _note(
    found: Positions,
    tp: TP,
    state: State,
    start: Start,
    known: Position | None,
    committed: CommittedOffset,
) -> None:
    """Let the state and the group's offsets say the same, with whatever is committed first."""
    position = Position(start.offset, found.topic_ids[tp.topic], not start.is_new)
    if position != known:
        state.put(POSITIONS, tp.topic.encode(), position)
    is_ours = committed.metadata and committed.has_position
    if position != known or committed.offset != start.offset or not is_ours:
        found.claims[tp] = start.offset


def _check_unfinished(found: Positions, tp: TP, state: State, start: Start, stands: Log) -> None:
    """What was unfinished in another outbox of this name says nothing of this one."""
    key = tp.topic.encode()
    unfinished = state.peek(UNFINISHED, key)
    if unfinished is None:
        return
    if start.is_another_topic or (unfinished.last >= stands.end and start.is_decided):
        state.delete(UNFINISHED, key)
    elif unfinished.last >= stands.end:
        found.gaps.append(Gap(Missing.CUT_SHORT, tp, unfinished.last + 1, stands.begin, stands.end))


async def reached(reader: LogReader, needed: Mapping[TP, int], within_s: float) -> dict[TP, int]:
    """Return the logs' ends, once they have come as far as is known of them: what was written last,
    a marker say, may be there and not be visible yet. After `within_s`: as they are."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        ends = await reader.ends(needed)
        is_reached = all(ends[tp] >= offset for tp, offset in needed.items())
        if is_reached or asyncio.get_running_loop().time() > deadline:
            return ends
        await asyncio.sleep(_END_AGAIN_S)


async def end_what_is_left_open(
    producer: TransactionalProducer,
    reader: LogReader,
    hanging: HangingTransactions,
    tps: list[TP],
    owners: dict[int, set[str]],
) -> None:
    """End the transactions that stay pending in partitions just taken over.

    An owner that died before it sent its offsets leaves nothing that `settle` would see, but
    nobody can read past what it wrote until its transaction times out: 10 s and more. Best
    effort, and may be cancelled: without it everything is right and slower, unless a transaction
    hangs. Raises HangingTransactionError where one does and can't be ended.
    """
    try:
        ends, before = await reader.ends(tps), await reader.stable_ends(tps)
        pending, ended = list(tps), set[str]()
        while pending:
            await asyncio.sleep(_PATIENCE_S)
            stable = await reader.stable_ends(pending)
            pending = [tp for tp in pending if stable[tp] < ends[tp]]
            # Where it moves, live workers write.
            stuck = {tp.partition for tp in pending if stable[tp] == before[tp]}
            if stuck:
                await hanging.mend()  # before who left it is fenced: that hides how it ended
            for owner in set().union(*(owners.get(number, set()) for number in stuck)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
            before = stable
    except (KafkaError, TimeoutError, OSError) as error:
        log.warning("could not end what another worker left open: %r", error)


async def settle(
    producer: TransactionalProducer, hanging: HangingTransactions, group: str, tps: list[TP]
) -> dict[TP, CommittedOffset]:
    """Return the group's offsets once nobody is about to change them.

    Raises HangingTransactionError where what a transaction left can't be ended.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: dict[TP, CommittedOffset] = {}
    ended: set[str] = {producer.transactional_id}
    waiting = list(tps)
    while waiting:
        answer = await producer.committed_offsets(group, waiting, require_stable=True)
        found.update((tp, it) for tp, it in answer.items() if it.is_stable)
        waiting = [tp for tp in waiting if tp not in found]
        if not waiting:
            break
        await asyncio.sleep(_ASK_AGAIN_S)
        if loop.time() - began > _PATIENCE_S:
            began = loop.time()
            if await hanging.mend():  # before who left it is fenced: that hides how it ended
                continue
            # Transactions of the dead would be pending until they time out: 10 s and more.
            last = owners_of(await producer.committed_offsets(group, tps, require_stable=False))
            numbers = {tp.partition for tp in waiting}
            for owner in set().union(*(last[number] for number in numbers)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
    return found


def owners_of(offsets: Mapping[TP, CommittedOffset], but: str = "") -> dict[int, set[str]]:
    """Return by partition number the transactional ids of who committed what is committed, others
    than `but`."""
    owners: dict[int, set[str]] = {tp.partition: set() for tp in offsets}
    for tp, committed in offsets.items():
        if committed.metadata and committed.metadata != but:
            owners[tp.partition].add(committed.metadata)
    return owners

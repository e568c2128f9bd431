"""What happens between an assignment and the first fold: settle, restore, find where to read.

1. A dead owner's pending commit is waited for, and ended if it takes long (`settle`), so that 2.
the changelogs are read up to everything that was written by then, and 3. the group's offsets and
the state's positions say where reading goes on (`place`). Only then does anything fold. Repeating
it changes nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from streams import metrics
from streams.engine.config import EngineConfig
from streams.engine.hanging import HangingTransactions
from streams.engine.log_ends import LogEnds
from streams.engine.outbox import UNFINISHED, Outbox
from streams.engine.positions import (
    ORIGIN,
    POSITIONS,
    Gap,
    Log,
    Missing,
    MissingRecordsError,
    Position,
    Start,
    decide,
    is_another,
    tell,
)
from streams.engine.state import State
from streams.engine.types import TP, Crash, Source, crash_of
from streams.kafka.log_reader import LogReader, check_changelogs
from streams.kafka.producer import Destination, ProducerRecord, TransactionalProducer
from streams.kafka.protocol import CommittedOffset, Membership
from streams.kafka.rights import principal_of

log = logging.getLogger(__name__)

_ASK_AGAIN_SECONDS = 0.02
_PATIENCE_SECONDS = 0.5
"""A live owner finishes its commit within this time; else it counts as dead."""
_LONGEST_PAUSE_SECONDS = 60.0
_LOOKS_FOR_TOPIC = 3
_LOOKS_FOR_SHARE = 12
"""So many looks pass before a share that is split counts as final. Where the group's leader didn't
know all topics it shares out anew: it looks for them each second, and each of the others hears of
the rebalance with its next heartbeat, up to 3 s later; on busy brokers all of it takes longer."""


class PartitionsSplitError(Exception):
    """Partitions that share a state were assigned to different workers."""


@dataclass(frozen=True)
class Share:
    """The partitions that the group assigned to this worker, and its membership."""

    tps: frozenset[TP]
    membership: Membership


@dataclass
class Positions:
    """For each source partition the offset to read from, and the log's end just now."""

    start: dict[TP, int] = field(default_factory=dict)
    end: dict[TP, int] = field(default_factory=dict)
    topic_ids: dict[str, bytes] = field(default_factory=dict)
    is_new: set[TP] = field(default_factory=set)
    """The partitions of which the group has folded nothing yet."""
    is_decided: set[TP] = field(default_factory=set)
    """The partitions whose offset an operator set by hand."""
    claims: dict[TP, int] = field(default_factory=dict)
    """The offsets to commit before anything is folded. With them the next owner finds this
    worker's id, even if its first transaction is its last, and knows that the state has
    positions."""
    gaps: list[Gap] = field(default_factory=list)
    """What is missing. If there is any, the other fields mean nothing."""


@dataclass(frozen=True)
class Taken:
    """What a takeover results in: all that a cycle needs to begin."""

    sources: Mapping[TP, Source]
    outboxes: Mapping[TP, Outbox]
    positions: Positions
    read_first: Mapping[int, tuple[TP, int]]
    """By partition number, a source partition and the offset up to which it is folded first."""
    topic_ids: Mapping[str, bytes]
    """The ids of all topics that the worker needs."""


class Takeover:
    """Takes over one share after the other. Owns the Kafka connections, which cycles use too."""

    def __init__(self, config: EngineConfig, crash: Crash) -> None:
        self.sources: dict[str, Source] = {}
        self.outboxes: dict[str, Outbox] = {}
        self.restored = 0.0
        """The part of the last share's state that is restored, 0 to 1."""
        self.producer = TransactionalProducer(
            f"{config.group}-{config.worker_id}", config.client_options
        )
        self.reader = LogReader(config.client_options)
        self._ends = LogEnds(config.log_patience_s)
        self.hanging = HangingTransactions(
            self.reader,
            config.group,
            config.changelog,
            config.output_topics,
            principal_of(config.client_options),
        )
        self._config = config
        self._crash = crash
        self._written = frozenset(config.output_topics)
        self._topic_ids: dict[str, bytes] = {}
        """The topics' ids at the last takeover."""
        self._tidying: asyncio.Task[None] | None = None
        """Ends what others left open; runs on beside the first cycles."""

    def topics(self) -> list[str]:
        """All topics that must be subscribed to."""
        return [*self.sources, *self.outboxes]

    async def attempt(
        self,
        share: Share,
        states: dict[int, State],
        *,
        seek: Callable[[dict[TP, int]], Awaitable[None]],
        on_progress: Callable[[], None],
    ) -> Taken:
        """Try once to take a share over. May be cancelled.

        `states` is changed: it may hold states already, and in the end holds all of the share's. A
        repeated attempt goes on with it. `seek` sets the offsets to read from; `on_progress` is
        called when a part is restored. Raises KafkaError, TimeoutError or OSError where another
        attempt may succeed; any other error is for good.
        """
        config = self._config
        await self.stop_tidying()
        await self._check_together(share.tps)
        await self.connect()
        sources = {tp: self.sources[tp.topic] for tp in share.tps if tp.topic in self.sources}
        outboxes = {tp: self.outboxes[tp.topic] for tp in share.tps if tp.topic in self.outboxes}
        committed = await settle(self.producer, self.hanging, config.group, [*sources, *outboxes])
        found = {
            number: states.get(number) or State(number)
            for number in self._state_partitions(share.tps)
        }
        changelogs = {TP(config.changelog, number): state for number, state in found.items()}
        began = asyncio.get_running_loop().time()
        self._tidying = asyncio.create_task(
            end_what_is_left_open(
                self.producer,
                self.reader,
                self.hanging,
                [*changelogs, *(tp for tp in share.tps if tp.topic in self._written)],
                owners_of(committed, but=self.producer.transactional_id),
            )
        )
        self._tidying.add_done_callback(partial(crash_of, self._crash))
        ends = await self._ends.reached(
            self.reader, {tp: state.position for tp, state in changelogs.items()}
        )

        def on_restored(part: float) -> None:
            self.restored = part
            metrics.RESTORED.set(part)
            on_progress()

        with metrics.RESTORE_SECONDS.time():
            restored = await self.reader.restore(changelogs, ends, on_restored)
        for state in found.values():
            state.discard()  # senders may have looked values up meanwhile, which are old now
        states.clear()
        states.update(found)
        positions = await self._place(committed, states)
        await self._claim(positions, states, share.membership)
        self._topic_ids = await self.reader.topic_ids(self._topics_needed())
        self._topic_ids |= positions.topic_ids
        await seek(positions.start)
        took_s = asyncio.get_running_loop().time() - began
        log.info(
            "took over %d partitions, restored %d changes in %.1f s", len(found), restored, took_s
        )
        metrics.TAKEOVER_SECONDS.observe(took_s)
        gates = self._read_first(share.tps, positions)
        return Taken(sources, outboxes, positions, gates, self._topic_ids)

    async def connect(self) -> None:
        """Connect. The transactional producer is opened only once all partitions have leaders and
        no transaction of its predecessor hangs."""
        topics = [*self._topics_needed(), *self._config.output_topics]
        await self.reader.open(topics)
        await self.producer.end()
        if not self.producer.is_open:
            await self.reader.check_leaders(topics)
            await self.hanging.mend(self.producer.transactional_id)
            await self.producer.open()
        await self.producer.learn(list(self._config.output_topics))

    async def disconnect(self) -> None:
        """Disconnect after a failed attempt: the next one connects anew, and ends the transactions
        that this one left open."""
        await self.stop_tidying()
        await self.producer.end()
        await self.reader.close()

    async def end(self) -> None:
        """End the open transaction, if there is one, so that nobody waits for what it wrote."""
        await self.producer.end()

    async def stop_tidying(self) -> None:
        """Stop the task that ends what others left open."""
        tidying, self._tidying = self._tidying, None
        while tidying is not None and not tidying.done():
            tidying.cancel()
            await asyncio.wait([tidying], timeout=1.0)  # aiokafka may swallow a cancellation

    async def close(self) -> None:
        """Disconnect."""
        await self.producer.close()
        await self.reader.close()

    async def missing_at(self, tp: TP, offset: int) -> MissingRecordsError:
        """Return the error to stop with when a partition has no record at the offset to read."""
        what, begin, end = Missing.DELETED_UNREAD, 0, 0
        try:
            begin = (await self.reader.beginnings([tp]))[tp]
            end = (await self.reader.ends([tp]))[tp]
        except (KafkaError, TimeoutError, OSError, RuntimeError):
            pass  # the line then only says where reading stopped
        if offset > end:
            what = Missing.CUT_SHORT
        return self.missing([Gap(what, tp, offset, begin, end)])

    def missing(self, gaps: Sequence[Gap]) -> MissingRecordsError:
        """Return the error to stop with because of gaps."""
        config = self._config
        servers = config.client_options["bootstrap_servers"]
        return MissingRecordsError(
            tell(
                gaps,
                group=config.group,
                changelog=config.changelog,
                read_first=self._first_topics(),
                brokers=servers if isinstance(servers, str) else ",".join(servers),
            )
        )

    async def _place(
        self, committed: Mapping[TP, CommittedOffset], states: Mapping[int, State]
    ) -> Positions:
        """Return where to read each partition from. Raises MissingRecordsError."""
        gaps = await self._forgotten(committed, states)
        if gaps:
            raise self.missing(gaps)
        positions = await place(
            self.reader,
            committed,
            states,
            own_id=self.producer.transactional_id,
            read_first=self._first_topics(),
            outboxes=self.outboxes,
            written=self._written,
            queues=self._config.queues,
            log_ends=self._ends,
        )
        if positions.gaps:
            raise self.missing(positions.gaps)
        return positions

    async def _forgotten(
        self, committed: Mapping[TP, CommittedOffset], states: Mapping[int, State]
    ) -> list[Gap]:
        """Return gaps for the partition numbers that have neither offsets nor a state although they
        were worked on."""
        worked_on = {tp.partition for tp, it in committed.items() if it.offset >= 0}
        new = {number for number, state in states.items() if not len(state)} - worked_on
        if not new:
            return []
        config, first = self._config, self._first_topics()
        counts = {topic: self.producer.partition_count(topic) for topic in config.queues}
        numbers = range(max(counts.values(), default=0))
        queues = [TP(topic, number) for topic, count in counts.items() for number in range(count)]
        is_of_old = await was_here(
            self.producer,
            self.reader,
            config.group,
            queues=queues,
            claimed={TP(topic, number) for topic in first for number in numbers},
            has_begun=any(map(_has_begun, states.values())),
        )
        own = [tp for tp in queues if tp.partition in new]
        lost = new if is_of_old else await folded_before(self.reader, own, self.outboxes)
        if not lost:
            return []
        # A queue holds what isn't done with: it is read on from its beginning.
        contract = [tp for tp in committed if tp.topic in self.sources and tp.topic not in counts]
        changelogs = await self.reader.ends(TP(config.changelog, number) for number in numbers)
        if is_of_old and not any(changelogs.values()):
            return [
                Gap(Missing.FORGOTTEN, TP(it, 0), 0, 0, 0) for it in {tp.topic for tp in contract}
            ]
        return [
            Gap(Missing.FORGOTTEN_IN_PART, tp, 0, 0, 0) for tp in contract if tp.partition in lost
        ]

    async def _claim(
        self, positions: Positions, states: Mapping[int, State], membership: Membership
    ) -> None:
        """Commit the positions and offsets that `place` found, before anything is folded."""
        records: dict[Destination, Sequence[ProducerRecord]] = {}
        for number, state in states.items():
            changes = state.seal()
            if changes:
                records[self._config.changelog, number] = changes
        if not positions.claims:
            return

        def check(ends: Mapping[Destination, int]) -> None:
            check_changelogs(self._config.changelog, states.values(), ends)

        ends = await self.producer.commit(records, positions.claims, membership, check)
        for number, state in states.items():
            state.apply()
            state.position = ends.get((self._config.changelog, number), state.position)

    async def _check_together(self, tps: Collection[TP]) -> None:
        """Raise PartitionsSplitError unless this worker has the same partition numbers of all
        topics that share a state; MissingRecordsError where the cause is a topic that is gone."""
        split = self._find_split(tps)
        if split is None:
            return
        await self.reader.open([])
        looks_without = 0
        for _ in range(_LOOKS_FOR_SHARE):
            found = await self.reader.topic_ids(self._topics_needed())
            gone = [
                topic
                for topic in self._topics_needed()
                if topic not in found or is_another(self._topic_ids.get(topic, b""), found[topic])
            ]
            # A broker that just started may not know the topic yet. Or it didn't when the group's
            # leader asked: then the leader asks again, and the rebalance ends this takeover.
            looks_without = looks_without + 1 if gone else 0
            if looks_without == _LOOKS_FOR_TOPIC:
                raise self.missing(
                    [Gap(Missing.MADE_ANEW, TP(topic, 0), 0, 0, 0) for topic in gone]
                )
            await asyncio.sleep(self._config.again_after_s)
        raise split

    def _find_split(self, tps: Collection[TP]) -> PartitionsSplitError | None:
        numbers: dict[str, set[int]] = {topic: set() for topic in self.outboxes}
        for topic, source in self.sources.items():
            is_shared = source.is_read_first or source.is_timed or source.is_clock
            if is_shared or topic in self._written:
                numbers[topic] = set()
        for tp in tps:
            if tp.topic in numbers:
                numbers[tp.topic].add(tp.partition)
        expected = self._state_partitions(tps)
        for topic, found in numbers.items():
            if found != expected:
                return PartitionsSplitError(
                    f"partitions {sorted(found)} of {topic} were assigned together with "
                    f"{sorted(expected)} of others: were partitions added to a topic? All must "
                    "have the same number; if they have, start the worker again"
                )
        return None

    def _topics_needed(self) -> list[str]:
        return [*self.topics(), self._config.changelog]

    def _first_topics(self) -> list[str]:
        return [source.topic for source in self.sources.values() if source.is_read_first]

    def _state_partitions(self, tps: Collection[TP]) -> set[int]:
        first = self._first_topics()
        return {tp.partition for tp in tps if tp.topic in first}

    def _read_first(self, tps: Collection[TP], positions: Positions) -> dict[int, tuple[TP, int]]:
        """Return, for `Taken.read_first`, the partition numbers of which only the read-first topic
        was ever folded, or for which an operator decided to read that topic again."""
        gates = {}
        for topic in self._first_topics():
            for tp in tps:
                if tp.topic != topic:
                    continue
                others = {
                    other
                    for other in tps
                    if other.partition == tp.partition
                    and other.topic in self.sources
                    and other.topic != topic
                }
                if tp in positions.is_decided or others <= positions.is_new:
                    gates[tp.partition] = (tp, positions.end[tp])
        return gates


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
    log_ends: LogEnds,
) -> Positions:
    """Return where to read each partition from, and write positions into states that lack them.

    `own_id`: this worker's transactional id. `read_first`, `outboxes`: the topics of that kind.
    `written`: the topics that this group's transactions write to; `queues`: those of them that
    nobody else writes to.
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
    ends = await log_ends.reached(reader, needed)
    found = Positions(end=ends, topic_ids=ids)
    lost = _states_lost(committed, states, read_first)
    for tp, offset in committed.items():
        position = known.get(tp)
        stands = Log(
            begins[tp], ends[tp], ids[tp.topic], tp.topic in written, tp.topic not in queues
        )
        has_state = tp.partition in states
        start = decide(
            offset,
            position,
            stands,
            has_state=has_state,
            unfinished=_unfinished(tp, states) if tp.topic in outboxes else (),
        )
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
    """Return the offset that the log must reach at least."""
    is_ours = committed.metadata and committed.has_position
    if known is None or (committed.offset >= 0 and not is_ours):
        return committed.offset
    return 0 if is_another(known.topic_id, topic_id) else max(known.offset, committed.offset)


def _states_lost(
    committed: Mapping[TP, CommittedOffset],
    states: Mapping[int, State],
    read_first: Collection[str],
) -> dict[int, Missing]:
    """Return, by partition number, what is wrong with a state as a whole."""
    lost = {}
    for number, state in states.items():
        offsets = {tp: it for tp, it in committed.items() if tp.partition == number}
        ours = [tp for tp, it in offsets.items() if it.offset >= 0 and it.metadata]
        has_origin = state.peek(POSITIONS, ORIGIN) is not None
        if any(offsets[tp].has_position for tp in ours) and not has_origin:
            lost[number] = Missing.STATE_BEHIND
        elif not len(state) and any(tp.topic in read_first for tp in ours):
            # A state of 0.1.0 without positions; but one that folded accounts isn't empty.
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
    """Note a partition's start, its claim and its position, so that after the first commit the
    state and the group's offsets agree."""
    position = Position(start.offset, found.topic_ids[tp.topic], not start.is_new)
    if position != known:
        state.put(POSITIONS, tp.topic.encode(), position)
    is_ours = committed.metadata and committed.has_position
    if position != known or committed.offset != start.offset or not is_ours:
        found.claims[tp] = start.offset


def _unfinished(tp: TP, states: Mapping[int, State]) -> Sequence[int]:
    state = states.get(tp.partition)
    known = None if state is None else state.peek(UNFINISHED, tp.topic.encode())
    return () if known is None else known.offsets


def _check_unfinished(found: Positions, tp: TP, state: State, start: Start, stands: Log) -> None:
    """Compare what the state says is unfinished in an outbox with its log: drop it where the topic
    was made anew or an operator set the offset, note a gap where the log is cut short."""
    key = tp.topic.encode()
    unfinished = state.peek(UNFINISHED, key)
    if unfinished is None:
        return
    if start.is_another_topic or (unfinished.last >= stands.end and start.is_decided):
        state.delete(UNFINISHED, key)
    elif unfinished.last >= stands.end:
        found.gaps.append(Gap(Missing.CUT_SHORT, tp, unfinished.last + 1, stands.begin, stands.end))


async def was_here(
    producer: TransactionalProducer,
    reader: LogReader,
    group: str,
    *,
    queues: Collection[TP],
    claimed: Collection[TP],
    has_begun: bool = False,
) -> bool:
    """Did a group that has no offsets of its own in any of the partitions `claimed` work before?
    Its queues were written then, or some state has begun (`has_begun`).

    In this order: who starts beside this worker commits its offsets before it writes any.
    """
    if not has_begun and not any((await reader.ends(queues)).values()):
        return False
    offsets = await producer.committed_offsets(group, list(claimed), require_stable=True)
    return all(it.is_stable and (it.offset < 0 or not it.metadata) for it in offsets.values())


async def folded_before(
    reader: LogReader, queues: Collection[TP], outboxes: Collection[str]
) -> set[int]:
    """Return the partition numbers of which some owner's work is seen in its queues, whatever other
    numbers do: something was deleted as done with, or was written to an outbox, which only the
    owner of that number does. (Any owner may write to the other queues, also before that number has
    its first.)"""
    begins, ends = await reader.beginnings(queues), await reader.ends(queues)
    return {
        tp.partition for tp in queues if begins[tp] > 0 or (tp.topic in outboxes and ends[tp] > 0)
    }


def _has_begun(state: State) -> bool:
    positions = (state.peek(POSITIONS, key) for key in state.keys(POSITIONS) if key != ORIGIN)
    return any(position is not None and position.is_begun for position in positions)


async def end_what_is_left_open(
    producer: TransactionalProducer,
    reader: LogReader,
    hanging: HangingTransactions,
    tps: list[TP],
    owners: dict[int, set[str]],
) -> None:
    """End the transactions that stay pending in partitions just taken over.

    `owners`: by partition number, the transactional ids of former owners. `settle` doesn't see the
    transaction of an owner that died before it sent its offsets, yet nobody can read past what it
    wrote until it times out, after 10 s or more. Best effort, and may be cancelled: without it the
    worker is only slower, unless a transaction hangs. Raises HangingTransactionError where one
    hangs and can't be ended.
    """
    try:
        ends, before = await reader.ends(tps), await reader.stable_ends(tps)
        pending, ended = list(tps), set[str]()
        pause_s = _PATIENCE_SECONDS
        while pending:
            await asyncio.sleep(pause_s)
            # What is left after some tries is another system's, and may stay for months.
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_SECONDS)
            stable = await reader.stable_ends(pending)
            pending = [tp for tp in pending if stable[tp] < ends[tp]]
            # Where the stable end moves, live workers write.
            stuck = {tp.partition for tp in pending if stable[tp] == before[tp]}
            if stuck:
                await hanging.mend()  # before its owner is fenced, which hides how it ended
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
    """Return the group's offsets once no transaction is pending that would change them.

    Raises HangingTransactionError where such a transaction hangs and can't be ended.
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
        await asyncio.sleep(_ASK_AGAIN_SECONDS)
        if loop.time() - began > _PATIENCE_SECONDS:
            began = loop.time()
            if await hanging.mend():  # before its owner is fenced, which hides how it ended
                continue
            # A dead owner's transaction would be pending until it times out, for 10 s or more.
            last = owners_of(await producer.committed_offsets(group, tps, require_stable=False))
            numbers = {tp.partition for tp in waiting}
            for owner in set().union(*(last[number] for number in numbers)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
    return found


def owners_of(offsets: Mapping[TP, CommittedOffset], but: str = "") -> dict[int, set[str]]:
    """Return, by partition number, the transactional ids that committed the offsets, without
    `but`."""
    owners: dict[int, set[str]] = {tp.partition: set() for tp in offsets}
    for tp, committed in offsets.items():
        if committed.metadata and committed.metadata != but:
            owners[tp.partition].add(committed.metadata)
    return owners

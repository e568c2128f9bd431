"""What happens between an assignment and the first fold: settle, restore, find where to read.

1. A dead owner's pending commit is waited for, and ended if it takes long, so that 2. the group's
offsets are the last word on what was folded, and 3. the changelogs are read up to everything
that was written by then. Only then does anything fold. Repeating it changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams import metrics
from streams.engine.producer import TransactionalProducer, learn, within
from streams.engine.protocol import CommittedOffset
from streams.engine.state import State
from streams.engine.types import TP

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.02
_PATIENCE_S = 0.5
"""A live owner finishes its commit in this time; after it the owner counts as gone."""
_STOP_S = 3.0


class OffsetOutOfRangeError(Exception):
    """A committed offset that isn't in the log (any more): someone must decide what to do."""


class ChangelogCutError(Exception):
    """A changelog isn't whole (any more): what would be restored from it is wrong."""


@dataclass(frozen=True)
class Positions:
    """Where each source partition is read from, and where it ended just now."""

    start: dict[TP, int]
    end: dict[TP, int]
    is_new: set[TP]
    """Partitions of which the group has folded nothing yet."""
    owners: dict[int, set[str]]
    """By partition number, the transactional ids of who committed last, others than this one."""
    claims: dict[TP, int]
    """Offsets to commit again as they are, so that whoever comes next finds who was here, even
    if this worker's first transaction is its last."""


class LogReader:
    """Reads partitions and their ends apart from the group. Open it once, use it often."""

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._options = client_options
        self._ends: AIOKafkaConsumer | None = None
        self._records: AIOKafkaConsumer | None = None

    async def open(self, topics: Iterable[str]) -> None:
        """Connect, and learn where the topics' partitions are.

        Raises KafkaConnectionError when Kafka is away.
        """
        if self._ends is None:
            self._ends = await self._connect("read_uncommitted")
        if self._records is None:
            self._records = await self._connect("read_committed")
        await learn(self._ends._client, topics)

    async def close(self) -> None:
        """Disconnect."""
        consumers = self._ends, self._records
        self._ends = self._records = None  # whatever ends this call: what is stopped is not used
        for consumer in consumers:
            if consumer is not None:
                await within(_STOP_S, consumer.stop())

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the logs' ends, pending transactions included."""
        return _plain(await self._open(self._ends).end_offsets(_theirs(tps)))

    async def beginnings(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the logs' first offsets."""
        return _plain(await self._open(self._ends).beginning_offsets(_theirs(tps)))

    async def restore(
        self, changelogs: dict[TP, State], ends: dict[TP, int], on_progress: Callable[[], None]
    ) -> int:
        """Read changelogs into the states, from each one's position to its end.

        Returns how many records were read. Waits for transactions that are pending before an
        end. May be cancelled: a state then is complete up to its position.

        Raises ChangelogCutError where the log doesn't begin at 0 or ends before a position.
        """
        begins = await self.beginnings(changelogs)
        for tp, state in changelogs.items():
            if begins[tp] > 0 or ends[tp] < state.position:
                raise ChangelogCutError(
                    f"{tp.topic}-{tp.partition} holds {begins[tp]} to {ends[tp]}, and this worker "
                    f"knows it up to {state.position}: a part of what is remembered was deleted. "
                    "The topic must have cleanup.policy=compact alone. Another DIALWATCH_GROUP "
                    "begins anew, and sends what the topics still hold again"
                )
        behind = {tp: state for tp, state in changelogs.items() if state.position < ends[tp]}
        if not behind:
            metrics.RESTORED.set(1)
            return 0
        consumer = self._open(self._records)
        consumer.assign(_theirs(behind))
        for tp, state in behind.items():
            consumer.seek(TopicPartition(*tp), state.position)
        whole = sum(ends[tp] - state.position for tp, state in behind.items())
        read = 0
        try:
            while behind:
                for partition, records in (await consumer.getmany(timeout_ms=100)).items():
                    tp = TP(*partition)
                    # Keys without a value are deleted; the log may hold both.
                    changelogs[tp].restore([(record.key, record.value) for record in records])
                    changelogs[tp].position = records[-1].offset + 1
                    read += len(records)
                    on_progress()
                for tp in list(behind):
                    position = await consumer.position(TopicPartition(*tp))
                    if position >= ends[tp]:
                        changelogs[tp].position = position
                        del behind[tp]
                left = sum(max(ends[tp] - state.position, 0) for tp, state in behind.items())
                metrics.RESTORED.set(1 - left / whole)
        finally:
            consumer.unsubscribe()
        metrics.RESTORED.set(1)
        return read

    async def stable_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the offsets before which no transaction is pending."""
        return _plain(await self._open(self._records).end_offsets(_theirs(tps)))

    async def _connect(self, isolation_level: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._options,
            isolation_level=isolation_level,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=1 << 20,
            fetch_max_wait_ms=20,
        )
        try:
            await consumer.start()
        except BaseException:
            await within(_STOP_S, consumer.stop())
            raise
        return consumer

    @staticmethod
    def _open(consumer: AIOKafkaConsumer | None) -> AIOKafkaConsumer:
        if consumer is None:
            raise RuntimeError("the reader is not open")
        return consumer


async def settle(
    producer: TransactionalProducer, reader: LogReader, group: str, tps: list[TP]
) -> Positions:
    """Return where to read each partition from, once nobody is about to change it.

    Raises OffsetOutOfRangeError where a committed offset isn't in the log.
    """
    found = await _stable_offsets(producer, group, tps)
    committed = {tp: found[tp].offset for tp in tps}
    beginnings, ends = await reader.beginnings(tps), await reader.ends(tps)
    start = {}
    for tp in tps:
        offset = committed[tp]
        if offset < 0:
            start[tp] = beginnings[tp]
        elif beginnings[tp] <= offset <= ends[tp]:
            start[tp] = offset
        else:
            raise OffsetOutOfRangeError(
                f"{tp.topic}-{tp.partition}: group {group} goes on at offset {offset}, but the log "
                f"holds {beginnings[tp]} to {ends[tp]}: records were deleted before they were "
                "read, or the topic was made anew. Decide what is to be lost and set the group's "
                "offsets with kafka-consumer-groups --reset-offsets"
            )
    owners = _owners(found)
    claims = {
        tp.partition: tp
        for tp in tps
        if committed[tp] >= 0 and producer.transactional_id not in owners[tp.partition]
    }
    return Positions(
        start,
        ends,
        is_new={tp for tp in tps if committed[tp] < 0},
        owners={number: ids - {producer.transactional_id} for number, ids in owners.items()},
        claims={tp: committed[tp] for tp in claims.values()},
    )


async def end_what_is_left_open(
    producer: TransactionalProducer,
    reader: LogReader,
    tps: list[TP],
    owners: dict[int, set[str]],
) -> None:
    """End the transactions that stay pending in partitions just taken over.

    An owner that died before it sent its offsets leaves nothing that `settle` would see, but
    nobody can read past what it wrote until its transaction times out: 10 s and more. Best
    effort, and may be cancelled: without it everything is right and slower.
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
            for owner in set().union(*(owners.get(number, set()) for number in stuck)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
            before = stable
    except (KafkaError, TimeoutError, OSError) as error:
        log.warning("could not end what another worker left open: %r", error)


async def _stable_offsets(
    producer: TransactionalProducer, group: str, tps: list[TP]
) -> dict[TP, CommittedOffset]:
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
            # Transactions of the dead would be pending until they time out: 10 s and more.
            last = _owners(await producer.committed_offsets(group, tps, require_stable=False))
            numbers = {tp.partition for tp in waiting}
            for owner in set().union(*(last[number] for number in numbers)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
    return found


def _owners(offsets: dict[TP, CommittedOffset]) -> dict[int, set[str]]:
    """Return by partition number the transactional ids of who committed what is committed."""
    owners: dict[int, set[str]] = {tp.partition: set() for tp in offsets}
    for tp, committed in offsets.items():
        if committed.metadata:
            owners[tp.partition].add(committed.metadata)
    return owners


def _theirs(tps: Iterable[TP]) -> list[TopicPartition]:
    return [TopicPartition(*tp) for tp in tps]


def _plain(offsets: dict[TopicPartition, int]) -> dict[TP, int]:
    return {TP(*tp): offset for tp, offset in offsets.items()}

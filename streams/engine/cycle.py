"""The cycle: read chunks → fold them → commit outputs, state and offsets as one transaction.

A `Cycle` does this for one assignment, again and again. While one transaction commits, the next
one is already folded on top of it, but no third one: so what is read and not committed is bounded.
Where nothing was folded no transaction is opened.

Longer than other modules: reading, the order of folding and committing share the buffers and the
running transaction, and only together they show why each record counts exactly once.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aiokafka.errors import KafkaError

from streams import metrics
from streams.engine import fault_points
from streams.engine.buffer import Buffer
from streams.engine.order import turn_of
from streams.engine.outbox import Outbox, Window
from streams.engine.positions import POSITIONS, Position
from streams.engine.refused import Instead, without
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Origin, Output, Reading, Record, Source, is_cancelled
from streams.kafka.log_reader import check_changelogs
from streams.kafka.producer import (
    Destination,
    ProducerRecord,
    RefusedRecordsError,
    TransactionalProducer,
)
from streams.kafka.protocol import Membership
from streams.topics import partition_of

log = logging.getLogger(__name__)

CYCLE_SECONDS = 0.05
# With a backlog nobody waits for the single record, and a longer cycle writes each key once for
# more of them. Who waits for an alert waits twice: for what is noticed, and for its dispatch.
BACKLOG_RECORDS = 20_000
BACKLOG_CYCLE_SECONDS = 1.0
HURRIED_BACKLOG_SECONDS = 0.25
# One round of all partitions, in records; each has its share, which is what partitions drift apart
# by at most. What is heavy (each record an account of its own, or many commands) counts as more.
ROUND_RECORDS = 20_000
LIGHT = 0.5
MOST_IN_PORTION = 5_000
# What a cycle works on is in memory as objects, twice while the one before commits; and a
# transaction must be written within its ten seconds.
MAX_CYCLE_RECORDS = 200_000
MAX_CYCLE_KEYS = 20_000
MAX_CYCLE_OUTPUTS = 20_000
MAX_CYCLE_BYTES = 16 << 20
# Of the begun and unfinished records of all outbox partitions, which share it. 20,000 usual ones
# have 16 MiB, but other systems' commands may be megabytes long.
MAX_OUTBOX_BYTES = 512 << 20
LEAST_OUTBOX_BYTES, MOST_OUTBOX_BYTES = 4 << 20, 64 << 20
# Emitted by a bulk source in one cycle, of one partition: what is dispatched next goes through
# the same queue as the alerts, and while there are any each cycle is to be short.
BULK_OUTPUTS = 2_000
BULK_OUTPUTS_BESIDE_ALERTS = 700
BESIDE_SECONDS = 1.0
LEAST_ROOM = 50
# So long at most the network waits for the folds: a commit is half a dozen round trips.
_SLICE_SECONDS = 0.01
_MAX_BUFFERED = 40_000
_MIN_BUFFERED = 2_000
_MAX_KNOWN_KEYS = 100_000


class Lag(NamedTuple):
    """How far a partition is behind: the records not folded, and the age in seconds of the oldest
    one that was read."""

    records: int
    seconds: float


@dataclass
class _Transaction:
    """What the folds have changed and emitted since the last commit began."""

    started: float = field(default_factory=time.monotonic)
    records: int = 0
    keys: int = 0
    """How many values the folds have loaded from the states."""
    emitted: int = 0
    """How many records `outputs` holds."""
    emitted_bytes: int = 0
    """How many bytes their keys and values have, and the records that they name."""
    offsets: dict[TP, int] = field(default_factory=dict)
    outputs: dict[Destination, list[ProducerRecord]] = field(default_factory=dict)
    origins: list[tuple[ProducerRecord, Origin]] = field(default_factory=list)
    """Of those outputs that name one."""
    touched: set[int] = field(default_factory=set)
    finished: set[TP] = field(default_factory=set)
    """The outbox partitions in which a record was finished."""
    bulk_done: set[str] = field(default_factory=set)
    """The topics of bulk sources that have had their share."""
    hurried: float | None = None
    """When a fold first asked for an early commit; None: none did."""

    @property
    def is_full(self) -> bool:
        return (
            self.records >= MAX_CYCLE_RECORDS
            or self.keys >= MAX_CYCLE_KEYS
            or self.emitted >= MAX_CYCLE_OUTPUTS
            or self.emitted_bytes >= MAX_CYCLE_BYTES
        )


class Cycle:
    """Folds the chunks of one assignment until it is closed or a commit fails."""

    def __init__(
        self,
        *,
        sources: Mapping[TP, Source],
        outboxes: Mapping[TP, Outbox],
        states: Mapping[int, State],
        positions: Mapping[TP, int],
        read_first: Mapping[int, tuple[TP, int]],
        reading: Reading,
        topic_ids: Mapping[str, bytes],
        changelog: str,
        producer: TransactionalProducer,
        membership: Membership,
        on_failure: Callable[[Exception], None],
        instead: Instead | None = None,
    ) -> None:
        """`positions`: the first offset to read, by partition. `read_first`: by partition number, a
        source partition and the offset up to which it is folded before any other. `topic_ids`: the
        ids that the state keeps beside each source's position.
        """
        self._outboxes = outboxes
        self._states = states
        self._buffers = {
            tp: Buffer(tp, source, positions[tp], reading.is_read_up)
            for tp, source in sorted(sources.items(), key=lambda item: (item[1].order, item[0]))
        }
        self._partitions: defaultdict[int, list[Buffer]] = defaultdict(list)
        """By partition number, the buffers among which an order is kept."""
        for tp, buffer in self._buffers.items():
            self._partitions[tp.partition].append(buffer)
        self._turns: list[deque[Buffer]] = []
        """The turns of a round, in order. All partitions of a bulk source share one turn: else
        each commit would write to all partitions of many topics."""
        together: dict[str, deque[Buffer]] = defaultdict(deque)
        for tp, buffer in self._buffers.items():
            if buffer.source.is_bulk:
                together[tp.topic].append(buffer)
            else:
                self._turns.append(deque([buffer]))
        self._turns += together.values()
        self._turn = 0
        """The index of the next turn. A full transaction doesn't start the round again."""
        self._hurried = -BESIDE_SECONDS
        """When a fold last asked for an early commit."""
        self._share = 1 / max(len(self._partitions), 1)
        self._buffered = 0
        self.most_buffered = max(_MIN_BUFFERED, _MAX_BUFFERED // max(len(states), 1))
        """How many records of one partition may wait, and are read at once. Bounds the number of
        records in memory over all partitions."""
        self._outbox_positions = {tp: positions[tp] for tp in outboxes}
        self._windows = {
            tp: Window(states[tp.partition], tp.topic, positions[tp]) for tp in outboxes
        }
        share = MAX_OUTBOX_BYTES // max(len(outboxes), 1)
        self._most_outbox_bytes = min(max(share, LEAST_OUTBOX_BYTES), MOST_OUTBOX_BYTES)
        self._read_first = dict(read_first)
        self._reading = reading
        self._topic_ids = topic_ids
        self.committed = dict(positions)
        """The group's committed offsets, as far as this worker knows them."""
        self._changelog = changelog
        self._producer = producer
        self._membership = membership
        self._on_failure = on_failure
        self._instead = instead
        self._no_state = State(-1)
        self._transaction: _Transaction | None = None
        self._commit: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._whole = asyncio.Lock()
        """Held from the moment when a chunk is given to its agent until its result is noted, so
        that nobody commits or drops half of a chunk."""
        self._given: asyncio.Future[None] | None = None
        """Done when the chunk given last is folded."""
        self._is_closing = False
        self._is_stopping = False
        """Is nothing more to be folded?"""
        self._known_partitions: dict[tuple[str, bytes], int] = {}
        for tp, outbox in outboxes.items():
            outbox.on_assigned(tp.partition)

    def lags(self) -> dict[TP, Lag]:
        """Return how far each source partition is behind."""
        lags, reading = {}, self._reading
        now = time.time()
        for tp, buffer in self._buffers.items():
            end = reading.end_of(tp)
            is_read_up = end is None or (
                reading.is_read_up(tp, buffer.position) and not reading.is_held(tp)
            )
            if not buffer.count and is_read_up:
                lags[tp] = Lag(0, 0.0)
                continue
            records = max((end or buffer.position) - buffer.position, 0) + buffer.count
            waiting_s = 0.0 if buffer.at is None else now - buffer.at / 1000
            lags[tp] = Lag(records, max(waiting_s, 0.0))
        return lags

    # -- reading ----------------------------------------------------------------------------

    def wanted(self) -> set[TP]:
        """Return the partitions to read from; the others have enough records waiting."""
        wanted = {tp for tp, buffer in self._buffers.items() if buffer.count < self.most_buffered}
        wanted.update(
            tp
            for tp, outbox in self._outboxes.items()
            if outbox.pending(tp.partition) < outbox.max_pending
            and self._windows[tp].bytes < self._most_outbox_bytes
        )
        return wanted

    def feed(self, tp: TP, records: list[Record]) -> None:
        """Queue the records that were read of a partition."""
        if self._is_closing:
            return
        if tp in self._outboxes:
            self._feed_outbox(tp, records)
            return
        buffer = self._buffers.get(tp)
        if buffer is not None:
            self._buffered += buffer.add(records)
            self._wake.set()

    def look_again(self) -> None:
        """Check again what can be folded: a log may have been read to its end without a record."""
        if self._buffered:
            self._wake.set()

    async def pass_markers(self) -> None:
        """Move the offsets past markers and aborted records behind the last folded one. Else, once
        retention has deleted them, they would look like records that were never read."""
        async with self._whole:  # what is being folded is in no buffer, and not folded yet
            if not self._is_closing:
                self._pass_markers()

    def _pass_markers(self) -> None:
        for tp in self.committed:
            read_to = self._reading.read_to(tp)
            if read_to is None or read_to <= self.committed[tp]:
                continue
            if tp not in self._buffers:
                if self._windows[tp].is_finished:
                    self._note_finished(tp)
            elif not self._buffers[tp].count and tp.partition not in self._read_first:
                transaction = self._running()
                transaction.offsets[tp] = read_to
                transaction.touched.add(tp.partition)
                self._wake.set()

    def _feed_outbox(self, tp: TP, records: list[Record]) -> None:
        position = self._outbox_positions[tp]
        records = [record for record in records if record.offset >= position]
        if not records:
            return
        self._outbox_positions[tp] = records[-1].offset + 1
        begun = self._windows[tp].begin(records)
        if len(begun) < len(records):
            self._note_finished(tp)  # the others were finished before a crash
        self._outboxes[tp].take(tp.partition, begun)

    def finish(self, tp: TP, offset: int, outputs: list[Output]) -> None:
        """Note that an outbox's record is done and what it emits. Ignored once the cycle is
        closed."""
        if self._is_closing or tp not in self._windows:
            return
        self._windows[tp].finish(offset)
        self._note_finished(tp)
        for output in outputs:
            self._emit(output)

    def _note_finished(self, tp: TP) -> None:
        transaction = self._running()
        transaction.finished.add(tp)
        transaction.touched.add(tp.partition)
        self._wake.set()

    # -- folding ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Fold and commit until closed. Raises what a fold raises; nothing of that fold's chunk is
        ever committed."""
        try:
            await self._run()
        except Exception:
            self._is_closing = True
            raise

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        yielded = clock()
        while not self._is_closing:
            if self._is_due():
                self._start_commit()
            if not await self._fold_next():
                await self._rest()
                yielded = clock()
            elif clock() - yielded > _SLICE_SECONDS:
                await asyncio.sleep(0)
                yielded = clock()

    async def _fold_next(self) -> bool:
        """Fold one chunk of the source whose turn it is. Return whether there was one."""
        transaction = self._transaction
        if self._is_stopping or (transaction is not None and transaction.is_full):
            return False
        turns, first = self._turns, self._turn
        for turn in range(first, first + len(turns)):
            sharing = turns[turn % len(turns)]
            for number, buffer in enumerate(sharing):
                if not buffer.count or self._has_had_its_share(buffer):
                    continue
                until = self._turn_of(buffer)
                if until is not None:
                    self._turn = (turn + 1) % len(turns)
                    sharing.rotate(-number - 1)
                    async with self._whole:
                        await self._fold(buffer, until)
                    return True
        return False

    def _has_had_its_share(self, buffer: Buffer) -> bool:
        return self._transaction is not None and buffer.tp.topic in self._transaction.bulk_done

    def _turn_of(self, buffer: Buffer) -> int | None:
        """Return the timestamp (ms) up to which a buffer's records may be folded; None: not now."""
        number = buffer.tp.partition
        first = self._read_first.get(number)
        if first is not None and not buffer.source.is_read_first:
            first_tp, end = first
            if self._buffers[first_tp].count or not self._buffers[first_tp].is_past(end):
                return None
            del self._read_first[number]
        return turn_of(buffer, self._partitions[number])

    async def _fold(self, buffer: Buffer, until: int) -> None:
        tp, source, transaction = buffer.tp, buffer.source, self._running()
        portion = int(self._share * ROUND_RECORDS / max(buffer.weight, LIGHT))
        records: Sequence[Record] = buffer.take(min(max(portion, 1), MOST_IN_PORTION), until)
        state = self._states.get(tp.partition, self._no_state)
        loaded, emitted = state.loaded(), transaction.emitted
        share = self._bulk_outputs() if source.is_bulk else int(self._share * MAX_CYCLE_OUTPUTS)
        end = emitted + max(share, LEAST_ROOM)

        def room() -> int:
            return 0 if transaction.is_full else end - transaction.emitted

        now = time.time_ns() // 1000
        chunk = Chunk(tp, records, state, self._emit, self._hurry, now, room)
        if source.give is None:
            source.fold(chunk)
        else:
            self._given = source.give(chunk)
            await self._given
        if chunk.unfinished:
            records = records[: len(records) - len(chunk.unfinished)]
            buffer.put_back(chunk.unfinished)
        if source.is_bulk:
            transaction.bulk_done.add(tp.topic)
        loaded = state.loaded() - loaded
        buffer.weight = (loaded + transaction.emitted - emitted) / max(len(records), 1)
        transaction.keys += loaded
        transaction.touched.add(tp.partition)
        if records:
            self._buffered -= len(records)
            transaction.offsets[tp] = records[-1].offset + 1
            transaction.records += len(records)
            metrics.RECORDS.labels(tp.topic).inc(len(records))

    def _bulk_outputs(self) -> int:
        is_calm = time.monotonic() - self._hurried > BESIDE_SECONDS
        return BULK_OUTPUTS if is_calm else BULK_OUTPUTS_BESIDE_ALERTS

    def _running(self) -> _Transaction:
        if self._transaction is None:
            self._transaction = _Transaction()
        return self._transaction

    def _hurry(self) -> None:
        transaction, self._hurried = self._running(), time.monotonic()
        if transaction.hurried is None:
            transaction.hurried = self._hurried

    def _emit(self, output: Output) -> None:
        topic, partition, key, value, headers, origin = output
        if partition is None:
            partition = self._partition_of(topic, key)
        transaction, record = self._running(), (key, value, headers)
        transaction.outputs.setdefault((topic, partition), []).append(record)
        if origin is not None:
            transaction.origins.append((record, origin))
            transaction.emitted_bytes += len(origin.record.value or b"")
        transaction.emitted += 1
        transaction.emitted_bytes += len(key or b"") + len(value or b"")

    def _partition_of(self, topic: str, key: bytes | None) -> int:
        """Return the partition that Kafka's default partitioner gives a key; 0 without a key."""
        if key is None:
            return 0
        known = self._known_partitions.get((topic, key))
        if known is None:
            known = partition_of(key, self._producer.partition_count(topic))
            if len(self._known_partitions) >= _MAX_KNOWN_KEYS:
                self._known_partitions.clear()
            self._known_partitions[topic, key] = known
        return known

    # -- committing -------------------------------------------------------------------------

    def _is_due(self) -> bool:
        transaction = self._transaction
        if transaction is None or self._commit is not None:
            return False
        return transaction.is_full or time.monotonic() >= self._due_at(transaction)

    def _due_at(self, transaction: _Transaction) -> float:
        is_backlog = self._buffered >= BACKLOG_RECORDS
        due = transaction.started + (BACKLOG_CYCLE_SECONDS if is_backlog else CYCLE_SECONDS)
        if transaction.hurried is None:
            return due
        return min(due, transaction.hurried + (HURRIED_BACKLOG_SECONDS if is_backlog else 0.0))

    async def _rest(self) -> None:
        """Sleep until there is a record to fold or the running transaction is due."""
        self._wake.clear()
        transaction = self._transaction
        if transaction is None or self._commit is not None:
            await self._wake.wait()
            return
        left = self._due_at(transaction) - time.monotonic()
        timer = asyncio.get_running_loop().call_later(max(left, 0), self._wake.set)
        await self._wake.wait()
        timer.cancel()

    def _start_commit(self) -> None:
        """Seal the running transaction and start its commit, during which folding goes on."""
        transaction = self._running()
        self._transaction = None
        for tp in transaction.finished:
            transaction.offsets[tp] = self._windows[tp].settle(self._reading.read_to(tp))
        self._note_positions(transaction.offsets)
        records: dict[Destination, Sequence[ProducerRecord]] = {}
        sealed = []
        for partition in transaction.touched:
            state = self._states.get(partition)
            if state is None:
                continue
            sealed.append(state)
            changes = state.seal()
            if changes:
                records[self._changelog, partition] = changes
        records.update(transaction.outputs)
        self._commit = asyncio.create_task(self._commit_sealed(transaction, records, sealed))

    def _note_positions(self, offsets: dict[TP, int]) -> None:
        """Move the offsets past markers behind the folded records, and put them into the states."""
        for tp, offset in offsets.items():
            buffer = self._buffers.get(tp)
            if buffer is not None and not buffer.count:
                offsets[tp] = max(offset, self._reading.read_to(tp) or 0)
            state = self._states.get(tp.partition)
            if state is not None:
                position = Position(offsets[tp], self._topic_ids[tp.topic])
                state.put(POSITIONS, tp.topic.encode(), position)

    async def _commit_sealed(
        self,
        transaction: _Transaction,
        records: dict[Destination, Sequence[ProducerRecord]],
        sealed: list[State],
    ) -> None:
        began = time.monotonic()
        try:
            ends = await self._commit_what_is_taken(records, transaction, sealed)
        except (Exception, asyncio.CancelledError) as error:
            # Whatever it is, nothing of the transaction may be kept.
            self._is_closing = True
            self._wake.set()
            if isinstance(error, Exception):
                self._on_failure(error)
                return
            if is_cancelled():
                raise
            self._on_failure(KafkaError("aiokafka cancelled a task of its own in a commit"))
            return
        fault_points.passing(fault_points.AFTER_COMMIT)
        for state in sealed:
            state.apply()
            state.position = ends.get((self._changelog, state.partition), state.position)
        self.committed.update(transaction.offsets)
        self._commit = None
        self._wake.set()
        metrics.COMMIT_SECONDS.observe(time.monotonic() - began)
        metrics.BATCH_RECORDS.observe(transaction.records)

    async def _commit_what_is_taken(
        self,
        records: dict[Destination, Sequence[ProducerRecord]],
        transaction: _Transaction,
        sealed: Collection[State],
    ) -> dict[Destination, int]:
        """Commit. A record that Kafka will never accept is replaced; a value of the state can't be
        replaced, so that the worker stops if one is refused."""

        def check(ends: Mapping[Destination, int]) -> None:
            check_changelogs(self._changelog, sealed, ends)

        while True:
            try:
                return await self._producer.commit(
                    records, transaction.offsets, self._membership, check
                )
            except RefusedRecordsError as refused:
                topics = {topic for topic, _ in refused.refused}
                if self._instead is None or self._changelog in topics:
                    raise
                records = without(
                    records,
                    refused,
                    origins=transaction.origins,
                    instead=self._instead,
                    longest=self._producer.longest,
                    place=self._place,
                )

    def _place(self, output: Output) -> Destination:
        partition = output.partition
        if partition is None:
            partition = self._partition_of(output.topic, output.key)
        return output.topic, partition

    async def finish_commit(self, within_s: float) -> bool:
        """Stop folding and wait for the commit under way. Return whether it succeeded, or there
        was none.

        What was folded after it is dropped: the next owner of the partitions folds it again.
        """
        self._is_closing = True
        self._wake.set()
        if not await self._is_whole(within_s) and self._given is not None:
            self._given.cancel()  # a chunk folded after this would be in no transaction
        if self._commit is not None:
            await asyncio.wait([self._commit], timeout=within_s)
            if self._commit is not None and not self._commit.done():
                self._commit.cancel()
                await asyncio.wait([self._commit])
        is_settled = self._commit is None
        for state in self._states.values():
            state.discard()
        return is_settled

    async def commit_rest(self, within_s: float) -> None:
        """Fold no more, and commit everything that is folded and the offsets past the markers that
        were read, before a planned stop: it may be long."""
        self._is_stopping = True
        clock = asyncio.get_running_loop().time
        deadline = clock() + within_s
        if not await self._is_whole(within_s):
            return
        while self._commit is not None:  # and then the one with what was folded meanwhile
            if clock() >= deadline:
                return
            await asyncio.wait([self._commit], timeout=deadline - clock())
        # (No await since the check: no commit has begun.)
        if self._is_closing:
            return
        self._pass_markers()
        if self._transaction is not None:
            self._start_commit()

    async def _is_whole(self, within_s: float) -> bool:
        """Wait until no chunk is with an agent. Return whether that was so within `within_s`."""
        try:
            async with asyncio.timeout(within_s), self._whole:
                return True
        except TimeoutError:
            return False

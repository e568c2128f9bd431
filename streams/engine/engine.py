"""One worker's engine: sources and outboxes in, assignments come and go, cycles run.

Between the consumer (Faust's group, whole batches) and the cycle (folds and transactions) it
keeps the worker's states, takes partitions over and recovers from a commit that failed.

Longer than other modules: these three interrupt each other at every await, and whoever changes
one must have the others before his eyes.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalGenerationError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RebalanceInProgressError,
    RecordListTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownMemberIdError,
)

from streams import metrics
from streams.engine.cycle import Cycle, Lag
from streams.engine.hanging import HangingTransactionError, HangingTransactions
from streams.engine.housekeeping import Housekeeping, is_transient
from streams.engine.outbox import Finish, Outbox
from streams.engine.positions import Gap, Missing, MissingRecordsError, is_another, tell
from streams.engine.refused import Instead
from streams.engine.state import State
from streams.engine.takeover import (
    Positions,
    end_what_is_left_open,
    owners_of,
    place,
    reached,
    settle,
)
from streams.engine.types import TP, Output, Record, Source
from streams.kafka.log_reader import LogReader
from streams.kafka.producer import Destination, ProducerRecord, TransactionalProducer
from streams.kafka.protocol import CommittedOffset, Membership
from streams.kafka.rights import forbidden, principal_of

log = logging.getLogger(__name__)

_FENCED = (
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
"""The group went on without this worker: it will be assigned something again."""

_REFUSED = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
    PolicyViolationError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""Trying again changes nothing: the worker stops before its offsets pass what it can't write."""

_FINISH_COMMIT_S = 8.0
_LOOKS_FOR_TOPIC = 3
_LOOK_AGAIN_S = 1.0
_RECOVER_AGAIN_S = 1.0
_PAUSE_GROWS = 1.2
_MOST_PAUSE_S = 5.0
_SAY_AGAIN_S = 60.0
_RECOVER_CALMLY_S = 10.0
# Longer than any transaction stays pending: 10 s until it times out, 10 more until Kafka looks.
_NO_PROGRESS_S = 30.0
_LOOK_FOR_HANGING_S = 15.0


class PartitionsSplitError(Exception):
    """What belongs together wasn't assigned together: the state of a record isn't here."""


class ProduceRefusedError(Exception):
    """Kafka refuses what must be written; the worker stops with nothing lost."""


@dataclass(frozen=True)
class EngineConfig:
    """Names and limits of one worker."""

    group: str
    worker_id: str
    """Stable over restarts, different for every worker that runs."""
    changelog: str
    output_topics: tuple[str, ...]
    queues: frozenset[str]
    """Topics that nobody but the group knows: what it has worked off is deleted from them."""
    session_timeout_s: float
    client_options: dict[str, Any]
    """Bootstrap servers and security, as aiokafka names them."""
    instead: Instead | None = None
    """What to write where Kafka refuses a record for good; None: stop."""
    max_poll_interval_s: float = 300.0
    """A worker whose event loop or reading stands still for so long leaves the group."""
    log_patience_s: float = 15.0
    """How long a log may end before what was read of it: its last marker may not be visible yet."""
    tidy_every_s: float = 10.0
    """How often to look for what is done with, and whether the topics still are the same."""
    out_of_group_s: float = 90.0
    """A worker that the group, while it answers, gives nothing for so long isn't well; after
    twice that it ends. Longer than a rebalance, which may wait 60 s for a member."""


class Engine:
    """Folds sources and serves outboxes for as long as partitions are assigned."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.sources: dict[str, Source] = {}
        self.outboxes: dict[str, Outbox] = {}
        self.states: dict[int, State] = {}
        self.seek: Callable[[dict[TP, int]], Awaitable[None]]
        """Set by the consumer: go on reading at these offsets."""
        self.is_read_up: Callable[[TP, int], bool]
        """Set by the consumer: does a partition's log end at this offset?"""
        self.end_of: Callable[[TP], int | None]
        """Set by the consumer: where does a partition's log end?"""
        self.is_held: Callable[[TP], bool]
        """Set by the consumer: does a part of it wait behind an open transaction?"""
        self.read_to: Callable[[TP], int | None]
        """Set by the consumer: up to where was a partition read, markers included, when all that
        was read has arrived?"""
        self.crash: Callable[[Exception], None]
        """Set by the worker: stop it, because of this."""
        self._producer = TransactionalProducer(
            f"{config.group}-{config.worker_id}", config.client_options
        )
        self._reader = LogReader(config.client_options)
        self._written = frozenset(config.output_topics)
        self._hanging = HangingTransactions(
            self._reader,
            config.group,
            config.changelog,
            config.output_topics,
            principal_of(config.client_options),
        )
        self._assigned: set[TP] = set()
        self._membership: Membership | None = None
        self._cycle: Cycle | None = None
        self._running: asyncio.Task[None] | None = None
        self._taking_over: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._is_broken = False
        """A fold raised: what it had done of its batch must not be committed."""
        self._member_id = ""
        """Under which `states` were kept up."""
        self._last_failure = 0.0
        self._topic_ids: dict[str, bytes] = {}
        """As they were when partitions were taken over last."""
        self.out_of_group: str | None = None
        """Why this worker has nothing to do although the group is there; set by the consumer."""

    # -- what is to be done -----------------------------------------------------------------

    def add_source(self, source: Source) -> None:
        """Fold a topic."""
        self.sources[source.topic] = source
        metrics.expect(source.topic)

    def add_outbox(self, outbox: Outbox) -> None:
        """Serve a topic whose work can't be folded."""
        self.outboxes[outbox.topic] = outbox
        outbox.bind(self._finisher(outbox.topic))

    def topics(self) -> list[str]:
        """All topics that must be subscribed to."""
        return [*self.sources, *self.outboxes]

    def _finisher(self, topic: str) -> Finish:
        def finish(partition: int, offset: int, outputs: list[Output]) -> None:
            if self._cycle is not None:
                self._cycle.finish(TP(topic, partition), offset, outputs)

        return finish

    # -- how it is ------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Is it stopping, or has it?"""
        return self._is_stopped

    @property
    def assigned(self) -> set[TP]:
        """The partitions of the current assignment."""
        return self._assigned

    def state_of(self, partition: int) -> State | None:
        """Return what is remembered of a partition number, when this worker has it."""
        return self.states.get(partition)

    @property
    def is_ready(self) -> bool:
        """Are partitions assigned (or is it known that there are none for us) and restored?"""
        return self._membership is not None and (self._cycle is not None or not self._assigned)

    @property
    def is_in_group(self) -> bool:
        """Has the group given this worker its share, which may be nothing?"""
        return self._membership is not None

    def lags(self) -> dict[TP, Lag]:
        """Return how far each source partition is behind."""
        return {} if self._cycle is None else self._cycle.lags(self.end_of, self.is_held)

    @property
    def reader(self) -> object | None:
        """Whom what is read now is for. None: nothing is to be read."""
        return self._cycle

    def wanted(self) -> set[TP]:
        """Which partitions are to be read now."""
        return self._cycle.wanted() if self._cycle is not None else set()

    @property
    def most_at_once(self) -> int:
        """How many records of one partition are to be read at once."""
        return self._cycle.most_buffered if self._cycle is not None else 1

    def feed(self, reader: object | None, tp: TP, records: list[Record]) -> None:
        """Take what was read for `reader`. Whoever came after it reads from elsewhere: for it
        these records would leave a gap."""
        if self._cycle is not None and self._cycle is reader:
            self._cycle.feed(tp, records)

    def note_polled(self) -> None:
        """A poll is over, whatever it brought: it may have been only a transaction's marker."""
        if self._cycle is not None:
            self._cycle.look_again()

    # -- assignments ----------------------------------------------------------------------------

    async def on_revoked(self) -> None:
        """Stop folding and finish the commit under way: the current generation still may."""
        self._membership = None
        await self._stop_takeover()
        await self._end_cycle()
        # The takeover may have been about to commit its claims: whoever comes next would wait.
        await self._producer.end()
        self._assigned = set()

    def on_assigned(self, assigned: set[TP], membership: Membership) -> None:
        """Take partitions over, in the background."""
        if self._is_stopped:
            return
        self._assigned = assigned
        self._membership = membership
        metrics.REBALANCES.inc()
        if membership.member_id != self._member_id:
            # Nobody knows for how long this worker was away: a deletion of that time may have
            # left no trace in the compacted changelog, and reading on would miss it.
            self._member_id = membership.member_id
            self.states = {}
        kept = {tp.partition for tp in assigned}
        for partition in set(self.states) - kept:
            del self.states[partition]
        self._taking_over = asyncio.create_task(self._take_over())

    async def watch_for_hanging(self) -> None:
        """Look for transactions that hang in what is read and written, for as long as this runs:
        end this group's, tell of others'. A takeover looks for itself."""
        before: dict[TP, int] = {}
        while True:
            await asyncio.sleep(_LOOK_FOR_HANGING_S)
            if self._cycle is None:
                continue
            try:
                tps = self._assigned.union(self._hanging.written())
                ends, stable = await self._reader.ends(tps), await self._reader.stable_ends(tps)
                stuck = {tp: stable[tp] for tp in tps if stable[tp] < ends[tp]}
                still = [tp for tp, at in stuck.items() if before.get(tp) == at]
                await self._hanging.look_at(still)
                before = stuck
            except (RuntimeError, TimeoutError, OSError) as error:  # a takeover closes the reader
                log.debug("could not look for hanging transactions: %r", error)

    async def connect(self) -> None:
        """Connect before there are partitions, so that those which come needn't wait for it.

        Best effort: a takeover connects what isn't.
        """
        try:
            await self._connect()
        except (KafkaError, TimeoutError, OSError, HangingTransactionError) as error:
            log.debug("not connected yet: %r", error)

    async def _connect(self) -> None:
        """Connect; open a transactional producer only where all partitions can be written and
        nothing hangs of what its predecessor wrote."""
        topics = [*self.topics(), self.config.changelog, *self.config.output_topics]
        await self._reader.open(topics)
        await self._producer.end()
        if not self._producer.is_open:
            await self._reader.check_leaders(topics)
            await self._hanging.mend(self._producer.transactional_id)
            await self._producer.open()
        await self._producer.learn(list(self.config.output_topics))

    async def stop(self) -> None:
        """Finish what is begun, commit it, let go."""
        self._is_stopped = True
        await self._stop_takeover()
        if self._cycle is not None and not self._is_broken:
            await self._cycle.commit_rest(_FINISH_COMMIT_S)
        self._membership = None
        await self._stop_takeover()  # the last commit may have failed
        await self._end_cycle()
        await self._producer.close()
        await self._reader.close()

    async def _take_over(self) -> None:
        complained_of, next_word, pause_s = "", 0.0, _RECOVER_AGAIN_S
        now = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(_NO_PROGRESS_S) as limit:
                    await self._try_take_over(limit)
                return
            except (KafkaError, TimeoutError, OSError) as error:
                if isinstance(error, _REFUSED):
                    self.crash(self._forbidden(error, "Read") or error)
                    return
                if self._tidying is not None:
                    self._tidying.cancel()
                if limit.expired():
                    log.warning(
                        "nothing moved for %.0f s in a takeover (%s), trying on",
                        _NO_PROGRESS_S,
                        _last_function(error.__cause__),
                    )
                elif type(error).__name__ != complained_of or now() >= next_word:
                    # What it says of the same may differ each time: in which order it tried.
                    complained_of, next_word = type(error).__name__, now() + _SAY_AGAIN_S
                    log.warning("can't take partitions over yet, trying on: %r", error)
                await self._producer.end()
                await self._reader.close()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # aiokafka leaks the ends of its own tasks; this one was not meant.
                log.warning("can't take partitions over yet, trying on: a request was dropped")
            except Exception as error:  # a task's exception would be seen by nobody
                self.crash(error)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * _PAUSE_GROWS, _MOST_PAUSE_S)

    async def _try_take_over(self, limit: asyncio.Timeout) -> None:
        def on_progress() -> None:
            limit.reschedule(asyncio.get_running_loop().time() + _NO_PROGRESS_S)

        membership = self._membership
        if membership is None or not self._assigned:
            return
        await self._end_cycle()
        await self._check_together()
        await self._connect()
        sources = {tp: self.sources[tp.topic] for tp in self._assigned if tp.topic in self.sources}
        outboxes = {
            tp: self.outboxes[tp.topic] for tp in self._assigned if tp.topic in self.outboxes
        }
        committed = await settle(
            self._producer, self._hanging, self.config.group, [*sources, *outboxes]
        )
        states = {
            partition: self.states.get(partition) or State(partition)
            for partition in self._state_partitions()
        }
        changelogs = {TP(self.config.changelog, number): states[number] for number in states}
        began = asyncio.get_running_loop().time()
        self._tidying = asyncio.create_task(
            end_what_is_left_open(
                self._producer,
                self._reader,
                self._hanging,
                [*changelogs, *(tp for tp in self._assigned if tp.topic in self._written)],
                owners_of(committed, but=self._producer.transactional_id),
            )
        )
        self._tidying.add_done_callback(self._crash_of)
        ends = await reached(
            self._reader,
            {tp: state.position for tp, state in changelogs.items()},
            self.config.log_patience_s,
        )
        with metrics.RESTORE_SECONDS.time():
            restored = await self._reader.restore(changelogs, ends, on_progress)
        for state in states.values():
            state.discard()  # what senders looked up meanwhile is of before
        self.states = states
        positions = await self._place(committed, states)
        await self._claim(positions, states, membership)
        self._topic_ids = await self._reader.topic_ids(self._topics_needed())
        self._topic_ids |= positions.topic_ids
        await self.seek(positions.start)
        log.info(
            "took over %d partitions, restored %d changes in %.1f s",
            len(states),
            restored,
            asyncio.get_running_loop().time() - began,
        )
        metrics.TAKEOVER_SECONDS.observe(asyncio.get_running_loop().time() - began)
        self._cycle = Cycle(
            sources=sources,
            outboxes=outboxes,
            states=states,
            positions=positions.start,
            read_first=self._read_first(positions),
            topic_ids=positions.topic_ids,
            read_to=self.read_to,
            is_read_up=self.is_read_up,
            changelog=self.config.changelog,
            producer=self._producer,
            membership=membership,
            on_failure=self._on_commit_failed,
            instead=self.config.instead,
        )
        self._running = asyncio.create_task(self._run(self._cycle))
        self._housekeeping = asyncio.create_task(self._keep_house(self._cycle, self._topic_ids))

    async def _keep_house(self, cycle: Cycle, topic_ids: dict[str, bytes]) -> None:
        house = Housekeeping(self._reader, topic_ids, self.config.changelog, self.config.queues)
        while True:
            await asyncio.sleep(self.config.tidy_every_s)
            cycle.pass_markers()
            try:
                gaps = await house.look_for_gaps(cycle.committed)
                if gaps:
                    self.crash(self._missing(gaps))
                    return
                await house.delete_done(cycle.committed)
            except Exception as error:
                if not is_transient(error):
                    self.crash(error)
                    return
                log.debug("keeping house another time: %r", error)

    def on_out_of_range(self, tp: TP, offset: int) -> None:
        """What is to be read next isn't there: stop, and say which."""
        self._looking = asyncio.create_task(self._look_what_is_there(tp, offset))

    async def _look_what_is_there(self, tp: TP, offset: int) -> None:
        what, begin, end = Missing.DELETED_UNREAD, 0, 0
        try:
            begin = (await self._reader.beginnings([tp]))[tp]
            end = (await self._reader.ends([tp]))[tp]
        except (KafkaError, TimeoutError, OSError, RuntimeError):
            pass  # the line then only says where reading stopped
        if offset > end:
            what = Missing.CUT_SHORT
        self.crash(self._missing([Gap(what, tp, offset, begin, end)]))

    async def _place(
        self, committed: dict[TP, CommittedOffset], states: dict[int, State]
    ) -> Positions:
        """Find where to read from. Raises MissingRecordsError."""
        config = self.config
        positions = await place(
            self._reader,
            committed,
            states,
            own_id=self._producer.transactional_id,
            read_first=[it.topic for it in self.sources.values() if it.is_read_first],
            outboxes=self.outboxes,
            written=self._written,
            queues=config.queues,
            patience_s=config.log_patience_s,
        )
        if positions.gaps:
            raise self._missing(positions.gaps)
        return positions

    def _missing(self, gaps: list[Gap]) -> MissingRecordsError:
        return MissingRecordsError(
            tell(
                gaps,
                group=self.config.group,
                changelog=self.config.changelog,
                read_first=[it.topic for it in self.sources.values() if it.is_read_first],
                brokers=_brokers(self.config),
            )
        )

    async def _claim(
        self, positions: Positions, states: dict[int, State], membership: Membership
    ) -> None:
        """Commit what `place` found out, before anything is folded on it."""
        records: dict[Destination, Sequence[ProducerRecord]] = {}
        for number, state in states.items():
            changes = state.seal()
            if changes:
                records[self.config.changelog, number] = changes
        if not positions.claims:
            return
        ends = await self._producer.commit(records, positions.claims, membership)
        for number, state in states.items():
            state.apply()
            state.position = ends.get((self.config.changelog, number), state.position)

    async def _check_together(self) -> None:
        """Raise PartitionsSplitError unless the same partition numbers of all topics that share
        a state are here; MissingRecordsError where that is because a topic is gone."""
        split = self._find_split()
        if split is None:
            return
        await self._reader.open([])
        for _ in range(_LOOKS_FOR_TOPIC):
            found = await self._reader.topic_ids(self._topics_needed())
            gone = [
                topic
                for topic in self._topics_needed()
                if topic not in found or is_another(self._topic_ids.get(topic, b""), found[topic])
            ]
            # A broker that just started may not know it yet. Or didn't when the group's leader
            # asked it: who asks again and shares out anew, which ends this takeover.
            await asyncio.sleep(_LOOK_AGAIN_S)
        if not gone:
            raise split
        raise self._missing([Gap(Missing.MADE_ANEW, TP(topic, 0), 0, 0, 0) for topic in gone])

    def _find_split(self) -> PartitionsSplitError | None:
        numbers: dict[str, set[int]] = {topic: set() for topic in self.outboxes}
        for topic, source in self.sources.items():
            is_shared = source.is_read_first or source.is_timed or source.is_clock
            if is_shared or topic in self._written:
                numbers[topic] = set()
        for tp in self._assigned:
            if tp.topic in numbers:
                numbers[tp.topic].add(tp.partition)
        expected = self._state_partitions()
        for topic, found in numbers.items():
            if found != expected:
                return PartitionsSplitError(
                    f"partitions {sorted(found)} of {topic} were assigned together with "
                    f"{sorted(expected)} of others: were partitions added to a topic? All must "
                    "have the same number; if they have, start the worker again"
                )
        return None

    def _topics_needed(self) -> list[str]:
        return [*self.topics(), self.config.changelog]

    def _state_partitions(self) -> set[int]:
        first = [source.topic for source in self.sources.values() if source.is_read_first]
        return {tp.partition for tp in self._assigned if tp.topic in first}

    def _read_first(self, positions: Positions) -> dict[int, tuple[TP, int]]:
        """Partition numbers of which nothing but the read-first topic was ever folded, or of which
        somebody decided that it is read again."""
        gates = {}
        for topic, source in self.sources.items():
            if not source.is_read_first:
                continue
            for tp in self._assigned:
                if tp.topic != topic:
                    continue
                others = {
                    other
                    for other in self._assigned
                    if other.partition == tp.partition
                    and other.topic in self.sources
                    and other.topic != topic
                }
                if tp in positions.is_decided or others <= positions.is_new:
                    gates[tp.partition] = (tp, positions.end[tp])
        return gates

    async def _run(self, cycle: Cycle) -> None:
        try:
            await cycle.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a task's exception would be seen by nobody
            self._is_broken = True
            self.crash(error)

    def _crash_of(self, task: asyncio.Task[None]) -> None:
        """A task's exception would be seen by nobody."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.crash(error)

    async def _stop_takeover(self) -> None:
        for task in (self._taking_over, self._tidying):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
        self._taking_over = self._tidying = None

    async def _end_cycle(self) -> None:
        """End the cycle, if there is one; may be cancelled and called again, by whomever."""
        cycle, self._cycle = self._cycle, None
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            self._housekeeping = None
        if cycle is not None:
            # A task of its own: half of it would leave what was folded in the states, or a
            # transaction open.
            self._ending = asyncio.create_task(self._end(cycle))
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end(self, cycle: Cycle) -> None:
        is_settled = await cycle.finish_commit(_FINISH_COMMIT_S)
        if self._running is not None:
            await asyncio.wait([self._running])
        if not is_settled:
            await self._producer.end()
        await asyncio.gather(
            *(
                outbox.on_revoked({tp.partition for tp in self._assigned if tp.topic == topic})
                for topic, outbox in self.outboxes.items()
            )
        )

    # -- a commit that failed -------------------------------------------------------------------

    def _on_commit_failed(self, error: Exception) -> None:
        metrics.ABORTED.inc()
        log.warning("a commit failed, nothing of it counts: %r", error)
        if self._membership is None:
            return  # it is being revoked anyway
        told = self._forbidden(error, "Write")
        if told is not None:
            self.crash(told)
            return
        if isinstance(error, _REFUSED):
            refused = ProduceRefusedError(
                f"Kafka refuses what must be written ({error!r}): the worker stops before its "
                "offsets pass it, nothing is lost. Check the topics' max.message.bytes and rights"
            )
            refused.__cause__ = error
            self.crash(refused)
            return
        if not isinstance(error, KafkaError | TimeoutError | OSError):
            self.crash(error)  # a bug: trying again changes nothing
            return
        now = asyncio.get_running_loop().time()
        # Two workers of one id must not race, and what fails for good must not spin.
        is_again = now - self._last_failure < _RECOVER_CALMLY_S
        self._last_failure = now
        pause_s = _RECOVER_AGAIN_S if is_again else 0.0
        if isinstance(error, _FENCED):
            self._membership = None
        self._taking_over = asyncio.create_task(self._recover(pause_s))

    def _forbidden(self, error: Exception, operation: str) -> Exception | None:
        config = self.config
        return forbidden(error, config.client_options, operation=operation, group=config.group)

    async def _recover(self, pause_s: float) -> None:
        """Drop the cycle; take the same partitions over again unless the group went on."""
        try:
            await self._end_cycle()
        except Exception as error:  # a task's exception would be seen by nobody
            self.crash(error)
            return
        await asyncio.sleep(pause_s)
        if self._membership is not None:
            await self._take_over()


def _brokers(config: EngineConfig) -> str:
    servers = config.client_options["bootstrap_servers"]
    return servers if isinstance(servers, str) else ",".join(servers)


def _last_function(error: BaseException | None) -> str:
    """Return where an exception was raised, as far as it is our code."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    ours = [frame.name for frame in frames if frame.filename.startswith(str(Path(__file__).parent))]
    return ours[-1] if ours else "unknown"

"""One worker's engine: given sources and outboxes, it works on what the group assigns to it.

It stands between the consumer (Faust's group, record batches) and the cycle (folds, transactions).
It keeps the worker's phase (`phases.py`), starts takeovers (`takeover.py`) and recovers from a
commit that failed.

Longer than other modules: these tasks can interrupt each other at every await, so whoever changes
one must see the others.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
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
from streams.engine.config import EngineConfig
from streams.engine.cycle import Cycle, Lag
from streams.engine.hanging import HangingTransactionError
from streams.engine.housekeeping import Housekeeping, is_transient
from streams.engine.outbox import Finish, Outbox
from streams.engine.phases import IllegalPhaseError, Phase, check
from streams.engine.state import State
from streams.engine.takeover import Share, Taken, Takeover
from streams.engine.types import TP, Crash, Output, Reading, Record, Source, crash_of, is_cancelled
from streams.kafka.protocol import Membership
from streams.kafka.rights import forbidden

log = logging.getLogger(__name__)

_FENCED = (
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
"""The group went on without this worker; it will assign partitions again."""

_REFUSED = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
    PolicyViolationError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""Trying again is useless: the worker stops, before its offsets pass a record that it can't write
the results of."""

_FINISH_COMMIT_SECONDS = 8.0
_PAUSE_GROWS = 1.2
_MOST_PAUSE_SECONDS = 5.0
_SAY_AGAIN_SECONDS = 60.0
_RECOVER_CALMLY_SECONDS = 10.0
_LOOK_FOR_HANGING_SECONDS = 15.0


class ProduceRefusedError(Exception):
    """Kafka refuses a record that must be written; the worker stops, and nothing is lost."""


@dataclass(frozen=True)
class _Work:
    """The cycle of a share and the tasks beside it."""

    share: Share
    cycle: Cycle
    folding: asyncio.Task[None]
    housekeeping: asyncio.Task[None]


class Engine:
    """Folds sources and feeds outboxes while partitions are assigned."""

    def __init__(
        self,
        config: EngineConfig,
        crash: Crash,
        *,
        takeover: Callable[[EngineConfig, Crash], Takeover] = Takeover,
        cycle: Callable[..., Cycle] = Cycle,
    ) -> None:
        """`crash`: stops the worker; may be called more than once. `takeover`, `cycle`: the classes
        that take partitions over and fold them; tests give others."""
        self.config = config
        self.crash = crash
        self.states: dict[int, State] = {}
        self.rebalances = 0
        """How many assignments this worker has had."""
        self.out_of_group: str | None = None
        """Why this worker has no share although the group answers; None: it has one. Set by the
        consumer."""
        self._takeover = takeover(config, crash)
        self._make_cycle = cycle
        self._reading: Reading | None = None
        # These three change together, in `_enter`.
        self._phase = Phase.IDLE
        self._share: Share | None = None
        self._work: _Work | None = None
        self._taking_over: asyncio.Task[None] | None = None
        """The takeover under way, or the recovery that comes before it."""
        self._ending: asyncio.Task[None] | None = None
        """The task that ends the last cycle."""
        self._looking: asyncio.Task[None] | None = None
        self._member_id = ""
        """The member id with which this worker has kept `states` up to date."""
        self._last_failure = 0.0

    def _enter(self, phase: Phase, share: Share | None = None, work: _Work | None = None) -> None:
        """Enter a phase with its share and its work; end the cycle that no longer belongs to it.

        Raises IllegalPhaseError where the phase can't follow or something is missing.
        """
        partitions = None if share is None else len(share.tps)
        check(self._phase, phase, partitions=partitions, has_cycle=work is not None)
        if share is not None and share is not self._share and self._phase is not Phase.IDLE:
            raise IllegalPhaseError(f"{self._phase.name} with another share: none was revoked")
        over = self._work if work is None else None
        self._phase, self._share, self._work = phase, share, work
        if over is not None:
            over.housekeeping.cancel()
            # In a task of its own, so that nobody cancels it half-way: that would leave
            # uncommitted changes in the states, or an open transaction.
            self._ending = asyncio.create_task(self._end(over))

    # -- what is to be done -----------------------------------------------------------------

    def add_source(self, source: Source) -> None:
        """Add a topic to fold."""
        self._takeover.sources[source.topic] = source
        metrics.expect(source.topic)

    def add_outbox(self, outbox: Outbox) -> None:
        """Add a topic whose records a sender works off."""
        self._takeover.outboxes[outbox.topic] = outbox
        outbox.bind(self._finisher(outbox.topic), self.crash)

    @property
    def sources(self) -> Mapping[str, Source]:
        """The sources by topic."""
        return self._takeover.sources

    def topics(self) -> list[str]:
        """All topics that must be subscribed to."""
        return self._takeover.topics()

    def bind(self, reading: Reading) -> None:
        """Set the reader of partitions. Call it once, before anything is assigned."""
        if self._reading is not None:
            raise RuntimeError("an engine is read for by one consumer")
        self._reading = reading

    def _finisher(self, topic: str) -> Finish:
        def finish(partition: int, offset: int, outputs: list[Output]) -> None:
            if self._work is not None:
                self._work.cycle.finish(TP(topic, partition), offset, outputs)

        return finish

    # -- how it is ------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    @property
    def is_stopped(self) -> bool:
        """Is the engine stopping, or stopped?"""
        return self._phase in {Phase.STOPPING, Phase.STOPPED}

    @property
    def is_ready(self) -> bool:
        """Is the share known (it may be empty) and its state restored?"""
        return self._work is not None or (self._phase is Phase.IDLE and self._share is not None)

    @property
    def assigned(self) -> frozenset[TP]:
        """The partitions of the current assignment."""
        return frozenset() if self._share is None else self._share.tps

    @property
    def membership(self) -> Membership | None:
        """The member id and generation of the present share, which may be empty; None: there is no
        share."""
        return None if self._share is None else self._share.membership

    @property
    def restored(self) -> float:
        """The part of the share's state that is restored, 0 to 1."""
        return self._takeover.restored

    def state_of(self, partition: int) -> State | None:
        """Return the state of a partition number; None: this worker doesn't have it."""
        return self.states.get(partition)

    def lags(self) -> dict[TP, Lag]:
        """Return how far each source partition is behind."""
        return {} if self._work is None else self._work.cycle.lags()

    # -- reading --------------------------------------------------------------------------------

    @property
    def reader(self) -> object | None:
        """A token of the running cycle, to be passed to `feed` with the records read; None: nothing
        is to be read now."""
        return None if self._work is None else self._work.cycle

    def wanted(self) -> set[TP]:
        """Return the partitions to be read now."""
        return set() if self._work is None else self._work.cycle.wanted()

    @property
    def most_at_once(self) -> int:
        """The number of records to read of one partition at once."""
        return 1 if self._work is None else self._work.cycle.most_buffered

    def feed(self, reader: object | None, tp: TP, records: list[Record]) -> None:
        """Take records that were read for the cycle of the token `reader`. Ignored where another
        cycle runs by now: that one reads from another offset, and would get a gap."""
        if self._work is not None and self._work.cycle is reader:
            self._work.cycle.feed(tp, records)

    def note_polled(self) -> None:
        """Note that a poll is over. Even without records it may have passed a transaction's
        marker."""
        if self._work is not None:
            self._work.cycle.look_again()

    def on_out_of_range(self, tp: TP, offset: int) -> None:
        """Stop the worker because the log has no record at the next offset to read."""

        async def look() -> None:
            self.crash(await self._takeover.missing_at(tp, offset))

        self._looking = asyncio.create_task(look())

    # -- assignments ----------------------------------------------------------------------------

    async def on_revoked(self) -> None:
        """Stop folding and finish the commit under way, which the present generation still may."""
        if not self.is_stopped:
            self._enter(Phase.IDLE)
        elif self._phase is Phase.STOPPING:
            self._enter(Phase.STOPPED)
        await self._stop_takeover()
        await self._until_ended()
        # The takeover may have a transaction open for its claims: the next owner would wait for it.
        await self._takeover.end()

    async def on_assigned(self, assigned: set[TP], membership: Membership) -> None:
        """Start taking partitions over, in the background. Always called after `on_revoked`."""
        if self.is_stopped:
            return
        share = Share(frozenset(assigned), membership)
        self._enter(Phase.TAKING_OVER if assigned else Phase.IDLE, share)
        self.rebalances += 1
        metrics.REBALANCES.inc()
        if membership.member_id != self._member_id:
            # This worker may have been away for long. A value that was deleted meanwhile may have
            # left no trace in the compacted changelog, so reading on would miss the deletion.
            self._member_id = membership.member_id
            self.states = {}
        kept = {tp.partition for tp in assigned}
        for partition in set(self.states) - kept:
            del self.states[partition]
        if assigned:
            self._begin(self._take_over(share))

    async def watch_for_hanging(self) -> None:
        """Look for hanging transactions in the topics read and written, until cancelled: end those
        of this group, log those of others. A takeover looks for itself."""
        reader, hanging = self._takeover.reader, self._takeover.hanging
        before: dict[TP, int] = {}
        while True:
            await asyncio.sleep(_LOOK_FOR_HANGING_SECONDS)
            if self._work is None:
                continue
            try:
                tps = set(self._work.share.tps).union(hanging.written())
                ends, stable = await reader.ends(tps), await reader.stable_ends(tps)
                stuck = {tp: stable[tp] for tp in tps if stable[tp] < ends[tp]}
                still = [tp for tp, at in stuck.items() if before.get(tp) == at]
                await hanging.look_at(still)
                before = stuck
            except (RuntimeError, TimeoutError, OSError) as error:  # a takeover closes the reader
                log.debug("could not look for hanging transactions: %r", error)

    async def connect(self) -> None:
        """Connect before partitions are assigned, so that the takeover needn't wait for it.

        Best effort: the takeover connects what is not connected yet.
        """
        try:
            await self._takeover.connect()
        except (KafkaError, TimeoutError, OSError, HangingTransactionError) as error:
            log.debug("not connected yet: %r", error)

    async def stop(self) -> None:
        """Finish what is begun, commit it and disconnect."""
        if self._phase is Phase.RUNNING:
            self._enter(Phase.STOPPING, self._share, self._work)
        elif not self.is_stopped:
            self._enter(Phase.STOPPED)
        await self._stop_takeover()
        if self._work is not None:
            await self._work.cycle.commit_rest(_FINISH_COMMIT_SECONDS)
        if self._phase is Phase.STOPPING:
            self._enter(Phase.STOPPED)
        await self._until_ended()
        await self._takeover.close()

    async def _take_over(self, share: Share) -> None:
        """Take a share over; repeat until it succeeds or can't succeed."""
        complained_of, next_word, pause_s = "", 0.0, self.config.again_after_s
        now = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(self.config.no_progress_s) as limit:
                    taken = await self._try_take_over(share, limit)
                self._work_on(share, taken)
                return
            except (KafkaError, TimeoutError, OSError) as error:
                if isinstance(error, _REFUSED):
                    self.crash(self._forbidden(error, "Read") or error)
                    return
                if limit.expired():
                    log.warning(
                        "nothing moved for %.0f s in a takeover (%s), trying on",
                        self.config.no_progress_s,
                        _last_function(error.__cause__),
                    )
                elif type(error).__name__ != complained_of or now() >= next_word:
                    # Only the type is compared: the text may differ with each try.
                    complained_of, next_word = type(error).__name__, now() + _SAY_AGAIN_SECONDS
                    log.warning("can't take partitions over yet, trying on: %r", error)
                await self._takeover.disconnect()
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                log.warning("can't take partitions over yet, trying on: a request was dropped")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * _PAUSE_GROWS, _MOST_PAUSE_SECONDS)

    async def _try_take_over(self, share: Share, limit: asyncio.Timeout) -> Taken:
        def on_progress() -> None:
            limit.reschedule(asyncio.get_running_loop().time() + self.config.no_progress_s)

        await self._until_ended()
        return await self._takeover.attempt(
            share, self.states, seek=self._reads().seek_all, on_progress=on_progress
        )

    def _work_on(self, share: Share, taken: Taken) -> None:
        """Start the cycle of a share that was taken over, unless it was revoked meanwhile: library
        code may have swallowed the takeover's cancellation."""
        if self._share is not share:
            return
        cycle = self._make_cycle(
            sources=taken.sources,
            outboxes=taken.outboxes,
            states=self.states,
            positions=taken.positions.start,
            read_first=taken.read_first,
            topic_ids=taken.positions.topic_ids,
            reading=self._reads(),
            changelog=self.config.changelog,
            producer=self._takeover.producer,
            membership=share.membership,
            on_failure=self._note_commit_failed,
            instead=self.config.instead,
        )
        folding = asyncio.create_task(cycle.run())
        folding.add_done_callback(partial(crash_of, self.crash))
        housekeeping = asyncio.create_task(self._keep_house(cycle, taken))
        housekeeping.add_done_callback(partial(crash_of, self.crash))
        self._enter(Phase.RUNNING, share, _Work(share, cycle, folding, housekeeping))

    def _reads(self) -> Reading:
        if self._reading is None:
            raise RuntimeError("nobody reads for this engine: bind a consumer first")
        return self._reading

    async def _keep_house(self, cycle: Cycle, taken: Taken) -> None:
        config = self.config
        house = Housekeeping(
            self._takeover.reader, taken.topic_ids, config.changelog, config.queues
        )
        while True:
            await asyncio.sleep(config.tidy_every_s)
            await cycle.pass_markers()
            try:
                gaps = await house.look_for_gaps(cycle.committed)
                if gaps:
                    self.crash(self._takeover.missing(gaps))
                    return
                await house.delete_done(cycle.committed)
            except Exception as error:
                if not is_transient(error):
                    self.crash(error)
                    return
                log.debug("keeping house another time: %r", error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._taking_over = asyncio.create_task(work)
        self._taking_over.add_done_callback(partial(crash_of, self.crash))

    async def _stop_takeover(self) -> None:
        task, self._taking_over = self._taking_over, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        await self._takeover.stop_tidying()

    async def _until_ended(self) -> None:
        """Wait until the last cycle has ended. May be cancelled and called again, by any task."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end(self, work: _Work) -> None:
        is_settled = await work.cycle.finish_commit(_FINISH_COMMIT_SECONDS)
        await asyncio.wait([work.folding])
        if not is_settled:
            await self._takeover.end()
        await asyncio.gather(
            *(
                outbox.on_revoked({tp.partition for tp in work.share.tps if tp.topic == topic})
                for topic, outbox in self._takeover.outboxes.items()
            )
        )

    # -- a commit that failed -------------------------------------------------------------------

    def _note_commit_failed(self, error: Exception) -> None:
        try:
            self._on_commit_failed(error)
        except Exception as bug:  # nobody awaits the commit's task and would see it
            self.crash(bug)

    def _on_commit_failed(self, error: Exception) -> None:
        metrics.ABORTED.inc()
        log.warning("a commit failed, nothing of it counts: %r", error)
        if self._work is None:
            return  # it is being ended anyway
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
            self.crash(error)  # a bug, or a person's to mend: trying again changes nothing
            return
        now = asyncio.get_running_loop().time()
        # Two workers of one id must not race, and an error that stays must not make it spin.
        is_again = now - self._last_failure < _RECOVER_CALMLY_SECONDS
        self._last_failure = now
        if self._phase is Phase.STOPPING:
            self._enter(Phase.STOPPED)
            return
        if isinstance(error, _FENCED):
            self._enter(Phase.ORPHANED)
        else:
            self._enter(Phase.RECOVERING, self._share)
        pause_s = self.config.again_after_s if is_again else 0.0
        self._begin(self._recover(pause_s))

    def _forbidden(self, error: Exception, operation: str) -> Exception | None:
        config = self.config
        return forbidden(error, config.client_options, operation=operation, group=config.group)

    async def _recover(self, pause_s: float) -> None:
        """Wait until the cycle has ended; then take the same partitions over again, unless the
        group went on without this worker."""
        await self._until_ended()
        await asyncio.sleep(pause_s)
        share = self._share
        if self._phase is Phase.RECOVERING and share is not None:
            self._enter(Phase.TAKING_OVER, share)
            await self._take_over(share)


def _last_function(error: BaseException | None) -> str:
    """Return the name of the last function of ours in an exception's traceback."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    ours = [frame.name for frame in frames if frame.filename.startswith(str(Path(__file__).parent))]
    return ours[-1] if ours else "unknown"

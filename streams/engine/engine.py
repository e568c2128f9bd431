"""One worker's engine: sources and outboxes in, assignments come and go, cycles run.

Between the consumer (Faust's group, whole batches) and the cycle (folds and transactions) it
keeps the worker's phase (see `phases.py`), has partitions taken over (`takeover.py`) and recovers
from a commit that failed.

Longer than other modules: these interrupt each other at every await, and whoever changes one must
have the others before his eyes.
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
from streams.engine.takeover import Crash, Share, Taken, Takeover, crash_of
from streams.engine.types import TP, Output, Reading, Record, Source
from streams.kafka.protocol import Membership
from streams.kafka.rights import forbidden

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

_FINISH_COMMIT_SECONDS = 8.0
_PAUSE_GROWS = 1.2
_MOST_PAUSE_SECONDS = 5.0
_SAY_AGAIN_SECONDS = 60.0
_RECOVER_CALMLY_SECONDS = 10.0
_LOOK_FOR_HANGING_SECONDS = 15.0


class ProduceRefusedError(Exception):
    """Kafka refuses what must be written; the worker stops with nothing lost."""


@dataclass(frozen=True)
class _Work:
    """What goes on for as long as a share is worked on."""

    share: Share
    cycle: Cycle
    folding: asyncio.Task[None]
    housekeeping: asyncio.Task[None]


class Engine:
    """Folds sources and serves outboxes for as long as partitions are assigned."""

    def __init__(
        self,
        config: EngineConfig,
        crash: Crash,
        *,
        takeover: Callable[[EngineConfig, Crash], Takeover] = Takeover,
        cycle: Callable[..., Cycle] = Cycle,
    ) -> None:
        """`crash`: stops the worker; may be called more than once. `takeover`, `cycle`: what takes
        partitions over and folds them, where it isn't the usual."""
        self.config = config
        self.crash = crash
        self.states: dict[int, State] = {}
        self.rebalances = 0
        """Assignments taken."""
        self.out_of_group: str | None = None
        """Why this worker has nothing to do although the group is there; set by the consumer."""
        self._takeover = takeover(config, crash)
        self._make_cycle = cycle
        self._reading: Reading | None = None
        # These three change together, in `_enter`.
        self._phase = Phase.IDLE
        self._share: Share | None = None
        self._work: _Work | None = None
        self._taking_over: asyncio.Task[None] | None = None
        """Or recovering, before that."""
        self._ending: asyncio.Task[None] | None = None
        """The last cycle's end."""
        self._looking: asyncio.Task[None] | None = None
        self._member_id = ""
        """Under which `states` were kept up."""
        self._last_failure = 0.0

    def _enter(self, phase: Phase, share: Share | None = None, work: _Work | None = None) -> None:
        """Go over to a phase and what belongs to it; end the cycle that doesn't any more.

        Raises IllegalPhaseError.
        """
        partitions = None if share is None else len(share.tps)
        check(self._phase, phase, partitions=partitions, has_cycle=work is not None)
        if share is not None and share is not self._share and self._phase is not Phase.IDLE:
            raise IllegalPhaseError(f"{self._phase.name} with another share: none was revoked")
        over = self._work if work is None else None
        self._phase, self._share, self._work = phase, share, work
        if over is not None:
            over.housekeeping.cancel()
            # A task of its own: half of it would leave what was folded in the states, or a
            # transaction open.
            self._ending = asyncio.create_task(self._end(over))

    # -- what is to be done -----------------------------------------------------------------

    def add_source(self, source: Source) -> None:
        """Fold a topic."""
        self._takeover.sources[source.topic] = source
        metrics.expect(source.topic)

    def add_outbox(self, outbox: Outbox) -> None:
        """Serve a topic whose work can't be folded."""
        self._takeover.outboxes[outbox.topic] = outbox
        outbox.bind(self._finisher(outbox.topic))

    @property
    def sources(self) -> Mapping[str, Source]:
        """What is folded, by topic."""
        return self._takeover.sources

    def topics(self) -> list[str]:
        """All topics that must be subscribed to."""
        return self._takeover.topics()

    def bind(self, reading: Reading) -> None:
        """Take who reads for this engine. Once, before anything is assigned."""
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
        """What it does now."""
        return self._phase

    @property
    def is_stopped(self) -> bool:
        """Is it stopping, or has it?"""
        return self._phase in {Phase.STOPPING, Phase.STOPPED}

    @property
    def is_ready(self) -> bool:
        """Are partitions assigned (or is it known that there are none for us) and restored?"""
        return self._work is not None or (self._phase is Phase.IDLE and self._share is not None)

    @property
    def assigned(self) -> frozenset[TP]:
        """The partitions of the current assignment."""
        return frozenset() if self._share is None else self._share.tps

    @property
    def membership(self) -> Membership | None:
        """As whom the group gave this worker its share, which may be nothing; None: it didn't."""
        return None if self._share is None else self._share.membership

    @property
    def restored(self) -> float:
        """Which part of the share's state is restored, 0 to 1."""
        return self._takeover.restored

    def state_of(self, partition: int) -> State | None:
        """Return what is remembered of a partition number, when this worker has it."""
        return self.states.get(partition)

    def lags(self) -> dict[TP, Lag]:
        """Return how far each source partition is behind."""
        return {} if self._work is None else self._work.cycle.lags()

    # -- reading --------------------------------------------------------------------------------

    @property
    def reader(self) -> object | None:
        """A token of the running cycle, to be given to `feed` with what was read meanwhile; None:
        nothing is to be read."""
        return None if self._work is None else self._work.cycle

    def wanted(self) -> set[TP]:
        """Which partitions are to be read now."""
        return set() if self._work is None else self._work.cycle.wanted()

    @property
    def most_at_once(self) -> int:
        """How many records of one partition are to be read at once."""
        return 1 if self._work is None else self._work.cycle.most_buffered

    def feed(self, reader: object | None, tp: TP, records: list[Record]) -> None:
        """Take what was read for `reader`. Whoever came after it reads from elsewhere: for it
        these records would leave a gap."""
        if self._work is not None and self._work.cycle is reader:
            self._work.cycle.feed(tp, records)

    def note_polled(self) -> None:
        """A poll is over, whatever it brought: it may have been only a transaction's marker."""
        if self._work is not None:
            self._work.cycle.look_again()

    def on_out_of_range(self, tp: TP, offset: int) -> None:
        """What is to be read next isn't there: stop, and say which."""

        async def look() -> None:
            self.crash(await self._takeover.missing_at(tp, offset))

        self._looking = asyncio.create_task(look())

    # -- assignments ----------------------------------------------------------------------------

    async def on_revoked(self) -> None:
        """Stop folding and finish the commit under way: the current generation still may."""
        if not self.is_stopped:
            self._enter(Phase.IDLE)
        elif self._phase is Phase.STOPPING:
            self._enter(Phase.STOPPED)
        await self._stop_takeover()
        await self._until_ended()
        # The takeover may have been about to commit its claims: whoever comes next would wait.
        await self._takeover.end()

    async def on_assigned(self, assigned: set[TP], membership: Membership) -> None:
        """Take partitions over, in the background. Comes after `on_revoked`, always."""
        if self.is_stopped:
            return
        share = Share(frozenset(assigned), membership)
        self._enter(Phase.TAKING_OVER if assigned else Phase.IDLE, share)
        self.rebalances += 1
        metrics.REBALANCES.inc()
        if membership.member_id != self._member_id:
            # Nobody knows for how long this worker was away: a deletion of that time may have
            # left no trace in the compacted changelog, and reading on would miss it.
            self._member_id = membership.member_id
            self.states = {}
        kept = {tp.partition for tp in assigned}
        for partition in set(self.states) - kept:
            del self.states[partition]
        if assigned:
            self._begin(self._take_over(share))

    async def watch_for_hanging(self) -> None:
        """Look for transactions that hang in what is read and written, for as long as this runs:
        end this group's, tell of others'. A takeover looks for itself."""
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
        """Connect before there are partitions, so that those which come needn't wait for it.

        Best effort: a takeover connects what isn't.
        """
        try:
            await self._takeover.connect()
        except (KafkaError, TimeoutError, OSError, HangingTransactionError) as error:
            log.debug("not connected yet: %r", error)

    async def stop(self) -> None:
        """Finish what is begun, commit it, let go."""
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
        """Take a share over, however often that must be tried."""
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
                    # What it says of the same may differ each time: in which order it tried.
                    complained_of, next_word = type(error).__name__, now() + _SAY_AGAIN_SECONDS
                    log.warning("can't take partitions over yet, trying on: %r", error)
                await self._takeover.disconnect()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # aiokafka leaks the ends of its own tasks; this one was not meant.
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
        """Fold what was taken over, unless it was revoked meanwhile: something may swallow the
        takeover's cancellation."""
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
            cycle.pass_markers()
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
        """Wait for the end of the last cycle; may be cancelled and called again, by whomever."""
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
        except Exception as bug:  # the commit's task is awaited by nobody who would see it
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
            self.crash(error)  # a bug: trying again changes nothing
            return
        now = asyncio.get_running_loop().time()
        # Two workers of one id must not race, and what fails for good must not spin.
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
        """See the cycle to its end; take the same partitions over again unless the group went
        on."""
        await self._until_ended()
        await asyncio.sleep(pause_s)
        share = self._share
        if self._phase is Phase.RECOVERING and share is not None:
            self._enter(Phase.TAKING_OVER, share)
            await self._take_over(share)


def _last_function(error: BaseException | None) -> str:
    """Return where an exception was raised, as far as it is our code."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    ours = [frame.name for frame in frames if frame.filename.startswith(str(Path(__file__).parent))]
    return ours[-1] if ours else "unknown"

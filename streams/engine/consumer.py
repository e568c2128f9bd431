"""Faust's transport with our reading: whole batches to the engine, Faust's group and assignor.

Faust keeps the consumer thread, the subscription, the assignor and the rebalance protocol; its
acks, its per-record streams and its table recovery are bypassed, because they lose and double
records over a rebalance.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import faust
from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.protocol.admin import DescribeGroupsRequest
from faust.transport.drivers import aiokafka as driver
from mode import Service
from yarl import URL

from streams.engine.engine import Engine
from streams.engine.types import TP
from streams.kafka import fetching
from streams.kafka.protocol import Membership

log = logging.getLogger(__name__)

_BUSY_WAIT_MS = 10
# At low rates the cost of a fetch for each few records dominates: a third of the worker's CPU.
_BUSY_FETCH_BYTES = 1 << 16
_IDLE_WAIT_MS = 1000
_IDLE_AFTER_EMPTY_POLLS = 4
_POLL_GAP_SECONDS = 0.005
_READ_SECONDS = 0.5
_READ_HANGS_SECONDS = 20.0
_START_AGAIN_SECONDS = 0.2
_MOST_PAUSE_SECONDS = 5.0
_SAY_AGAIN_SECONDS = 60.0
_WATCH_GROUP_SECONDS = 1.0
_GROUP_ANSWERS_SECONDS = 5.0
_FULL_POLL = 500
"""A poll that brought fewer records is followed by a short pause, so that the next brings more:
at low rates the cost of a fetch for each record dominates."""


class OutOfGroupError(Exception):
    """The group goes on without this worker and takes it in no more."""


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Reads for the engine, as its `Reading`."""

    consumer: "_Consumer"
    _under_way: asyncio.Future[Any] | None = None

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Stock Faust reads committed only with its own, broken, exactly_once, and takes its
        # assignor, which keeps equal partition numbers together, only with tables.
        consumer._isolation_level = "read_committed"
        consumer._partition_assignment_strategy = [self.app.assignor]
        consumer._fetch_max_wait_ms = _IDLE_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Start, also where the brokers went away a moment ago: they are waited for."""
        self._consumer = consumer = self._create_consumer(loop=self.thread_loop)
        self.time_started = time.monotonic()
        next_word, pause_s = 0.0, _START_AGAIN_SECONDS
        while not self.should_stop:
            try:
                await consumer.start()
                return
            except (KafkaError, TimeoutError, OSError) as error:
                if consumer._fetcher is not None:  # half started, which aiokafka does only once
                    raise
                if time.monotonic() >= next_word:
                    next_word = time.monotonic() + _SAY_AGAIN_SECONDS
                    log.warning("can't join the group yet, trying on: %r", error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MOST_PAUSE_SECONDS)

    async def read(self, tps: set[TP], timeout_s: float) -> dict[TP, list[Any]]:
        """Return what was fetched of these partitions, whole batches."""
        consumer = self._ensure_consumer()
        # Shielded, because a cancelled call would go on in the consumer's thread and lose what
        # it read; who seeks waits for it instead.
        self._under_way = asyncio.ensure_future(
            self.call_thread(self._fetch_records, consumer, tps, timeout=timeout_s)
        )
        return dict(await asyncio.shield(self._under_way))

    async def seek_all(self, positions: dict[TP, int]) -> None:
        """Go on reading at these offsets."""
        # A read that is under way would bring records of before; let it end first.
        if self._under_way is not None:
            await asyncio.wait([self._under_way], timeout=_READ_HANGS_SECONDS)
            if not self._under_way.done():
                raise RuntimeError("a read hangs in aiokafka; start the worker again")

        async def seek() -> None:
            consumer = self._ensure_consumer()
            for tp, offset in positions.items():
                consumer.seek(TopicPartition(*tp), offset)
            self.note_handed_over(positions)

        await self.call_thread(seek)

    def set_idle(self, is_idle: bool) -> None:
        """Let fetches wait long at the broker for anything, or shortly for much."""
        fetcher = self._ensure_consumer()._fetcher
        fetcher._fetch_max_wait_ms = _IDLE_WAIT_MS if is_idle else _BUSY_WAIT_MS
        fetcher._fetch_min_bytes = 1 if is_idle else _BUSY_FETCH_BYTES

    def end_of(self, tp: TP) -> int | None:
        """Return where a partition's log ends, as far as the last fetch told."""
        state = self._state_of(tp)
        return None if state is None or state.highwater is None else int(state.highwater)

    def is_held(self, tp: TP) -> bool:
        """Does a part of a partition wait behind somebody's open transaction, as far as the last
        fetch told?"""
        state = self._state_of(tp)
        return state is not None and (state.lso or 0) < (state.highwater or 0)

    def is_read_up(self, tp: TP, position: int) -> bool:
        """Does a partition's log end here, as far as the last fetch told?"""
        state = self._state_of(tp)
        if state is None or state.highwater is None:
            return False
        # Behind the last delivered record there may be markers: aiokafka's position knows.
        return max(position, self.read_to(tp) or 0) >= int(state.lso)

    def read_to(self, tp: TP) -> int | None:
        """Return up to where a partition was read, markers included. None: nobody knows, or
        aiokafka's position counts records that are on their way from its thread to the cycle."""
        state = self._state_of(tp)
        if state is None or not state.has_valid_position:
            return None
        position = int(state.position)  # before the look: it moves after the flag is set
        return None if getattr(state, "is_handing_over", False) else position

    def _state_of(self, tp: TP) -> Any | None:
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        if assignment is None or TopicPartition(*tp) not in assignment.tps:
            return None
        return assignment.state_value(TopicPartition(*tp))

    def note_handed_over(self, tps: Iterable[TP]) -> None:
        """What was read of these partitions has arrived, or was dropped."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        for tp in tps:
            if assignment is not None and TopicPartition(*tp) in assignment.tps:
                assignment.state_value(TopicPartition(*tp)).is_handing_over = False

    async def check_group(self) -> None:
        """Raise what ended the coordination with the group; aiokafka's getmany would, but what
        reads here goes around it."""

        async def check() -> None:
            if self._consumer is not None:
                self._consumer._coordinator.check_errors()

        await self.call_thread(check)

    async def stay_member(self) -> None:
        """Count as alive: aiokafka leaves the group, for good, when nothing was fetched for the
        poll interval, as who has no partitions, or is still taking them over, doesn't."""

        async def note() -> None:
            if self._consumer is not None:
                self._consumer._subscription._last_fetch_ended = time.monotonic()

        await self.call_thread(note)

    async def look_for_topics(self) -> None:
        """Ask again about topics of which nothing is known: the group shares out what its leader
        knows, and an update that failed aiokafka repeats after five minutes only."""

        async def look() -> None:
            if self._consumer is not None:
                client = self._consumer._client
                if not all(map(client.cluster.partitions_for_topic, client._topics)):
                    client.force_metadata_update()

        await self.call_thread(look)

    async def does_group_answer(self) -> bool:
        """Is the group's coordinator there and able to say how the group is?"""

        async def ask() -> bool:
            coordinator = self._ensure_consumer()._coordinator
            if coordinator.coordinator_id is None:
                return False
            # On another connection than that of a join, which the broker may be holding back.
            answer = await coordinator._client.send(
                coordinator.coordinator_id,
                DescribeGroupsRequest([coordinator.group_id]),
            )
            return not any(group[0] for group in answer.groups)

        try:
            async with asyncio.timeout(_GROUP_ANSWERS_SECONDS):
                return bool(await self.call_thread(ask))
        except (KafkaError, TimeoutError, OSError):
            return False


class _Consumer(driver.Consumer):  # type: ignore[misc]
    _thread: _ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine: Engine = self.transport.engine
        self.engine.bind(self._thread)
        self.last_poll = asyncio.get_event_loop().time()

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self._or_crash(self.engine.on_revoked())
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        coordinator = self._thread._ensure_consumer()._coordinator
        membership = Membership(
            self.app.conf.id, int(coordinator.generation), str(coordinator.member_id)
        )
        await self._or_crash(super().on_partitions_assigned(assigned, generation_id))
        await self._or_crash(self.engine.on_assigned({TP(*tp) for tp in assigned}, membership))

    async def perform_seek(self) -> None:
        """Nothing: the engine seeks when it has taken the partitions over."""

    async def wait_empty(self) -> None:
        """Nothing: the engine has finished its commit when partitions are revoked."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Nothing: offsets are committed with the engine's transactions."""
        return False

    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust would look at each partition each second, for stalled streams."""

    async def _or_crash(self, callback: Any) -> None:
        # aiokafka only logs what a rebalance callback raises, and the worker would idle on.
        try:
            await callback
        except Exception as error:
            self.engine.crash(error)
            raise

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_group(self) -> None:
        """A coordination that ended would leave the worker idle, with partitions or without."""
        out_since: float | None = None
        while not self.should_stop:
            await self.sleep(_WATCH_GROUP_SECONDS)
            try:
                await self._thread.check_group()
                await self._thread.look_for_topics()
                if not self._is_reading_stuck():
                    await self._thread.stay_member()
                out_since = await self._look_for_us(out_since)
            except ConsumerStoppedError:
                return
            except KafkaError as error:
                # aiokafka has stopped until it is told that somebody knows.
                if not error.retriable:
                    self.engine.crash(error)
                    return
                log.warning("the group could not be reached, trying on: %r", error)
            except Exception as error:
                self.engine.crash(error)
                return

    def _is_reading_stuck(self) -> bool:
        silent_s = self.loop.time() - self.last_poll
        return bool(self.engine.wanted()) and silent_s > self.engine.config.max_poll_interval_s

    async def _look_for_us(self, out_since: float | None) -> float | None:
        """Return since when the group, though it answers, has given this worker no share.

        Brokers that are away are waited for. Who is left out too long says so, is not well, and
        in the end stops: whoever starts it again has a better chance than this process.
        """
        engine: Engine = self.engine
        now: float = self.loop.time()
        if engine.membership is not None or engine.is_stopped:
            engine.out_of_group = None
            return None
        if out_since is None or not await self._thread.does_group_answer():
            engine.out_of_group = None
            return now
        out_s, limit_s = now - out_since, engine.config.out_of_group_s
        if out_s > limit_s:
            said = (
                f"out of group {engine.config.group} for {out_s:.0f} s, though it answers: restart "
                "the worker"
            )
            if engine.out_of_group is None:
                log.error("%s; it ends by itself after %.0f s", said, 2 * limit_s)
            engine.out_of_group = said
            if out_s > 2 * limit_s:
                engine.crash(OutOfGroupError(said))
        return out_since

    async def _drain_messages(self, fetcher: Any) -> None:
        """Read for as long as the fetcher runs."""
        try:
            await self._keep_reading(fetcher)
        except asyncio.CancelledError:
            # In a rebalance Faust takes it for one that is to be started again, and fails at that.
            if not fetcher.should_stop:
                raise

    async def _keep_reading(self, fetcher: Any) -> None:
        empty_polls = 0
        while not (self.should_stop or fetcher.should_stop):
            self.last_poll = self.loop.time()
            reader, wanted = self.engine.reader, self.engine.wanted()
            if not self.flow_active or not wanted:
                await asyncio.sleep(0.01)
                continue
            fetching.hand_over(self.engine.most_at_once)
            try:
                records = await self._read(wanted)
            except KafkaError as error:  # a right that was taken away: Faust would log where
                self.engine.crash(error)
                return
            count = sum(map(len, records.values()))
            empty_polls = 0 if count else empty_polls + 1
            self._thread.set_idle(empty_polls > _IDLE_AFTER_EMPTY_POLLS)
            for tp, batch in records.items():
                self.engine.feed(reader, TP(*tp), batch)
            self._thread.note_handed_over(TP(*tp) for tp in records)
            self.engine.note_polled()
            await asyncio.sleep(0 if count >= _FULL_POLL else _POLL_GAP_SECONDS)

    async def _read(self, wanted: set[TP]) -> dict[TP, list[Any]]:
        try:
            return await self._thread.read(wanted, _READ_SECONDS)
        except (ConsumerStoppedError, NoOffsetForPartitionError):
            return {}  # the worker is stopping; the engine is about to seek
        except OffsetOutOfRangeError as error:
            for tp, offset in error.args[0].items():
                self.engine.on_out_of_range(TP(*tp), offset)
            return {}


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer

    def __init__(self, url: list[URL], app: faust.App, engine: Engine) -> None:
        self.engine = engine
        super().__init__(url, app)


def attach(app: faust.App, engine: Engine) -> None:
    """Make a Faust app read for an engine: subscribe to its topics, hand it whole batches.

    To be called once, before the app starts, after all sources and outboxes are added.
    """
    fetching.install()
    app.transport = _Transport(app.conf.broker_consumer, app, engine)
    for topic in engine.topics():
        app.topics.add(app.topic(topic, value_serializer="raw", key_serializer="raw"))

"""Faust's transport, which reads whole record batches for the engine.

Faust's consumer thread, subscription, assignor and rebalance protocol are used as they are. Its
acknowledgements, per-record streams and table recovery are not: they lose or repeat records in a
rebalance.
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
# At low rates fetches that bring few records each take a third of the worker's CPU.
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
"""After a poll that brought fewer records there is a short pause, so that the next one brings
more: at low rates a fetch costs more than its records do."""


class OutOfGroupError(Exception):
    """The group works without this worker and doesn't take it in again."""


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The consumer's thread. Implements the engine's `Reading`."""

    consumer: "_Consumer"
    _under_way: asyncio.Future[Any] | None = None

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Stock Faust reads `committed` only with its own exactly_once, which is broken. And it
        # uses its assignor, which keeps equal partition numbers together, only with tables.
        consumer._isolation_level = "read_committed"
        consumer._partition_assignment_strategy = [self.app.assignor]
        consumer._fetch_max_wait_ms = _IDLE_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Start. Where the brokers are away at this moment, wait for them."""
        self._consumer = consumer = self._create_consumer(loop=self.thread_loop)
        self.time_started = time.monotonic()
        next_word, pause_s = 0.0, _START_AGAIN_SECONDS
        while not self.should_stop:
            try:
                await consumer.start()
                return
            except (KafkaError, TimeoutError, OSError) as error:
                if consumer._fetcher is not None:  # half started: aiokafka can't start it again
                    raise
                if time.monotonic() >= next_word:
                    next_word = time.monotonic() + _SAY_AGAIN_SECONDS
                    log.warning("can't join the group yet, trying on: %r", error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MOST_PAUSE_SECONDS)

    async def read(self, tps: set[TP], timeout_s: float) -> dict[TP, list[Any]]:
        """Return the records that were fetched of these partitions, in whole record batches. Waits
        up to `timeout_s` for the first ones."""
        consumer = self._ensure_consumer()
        # Shielded: a cancelled call would go on in the consumer's thread, and what it read would
        # be lost. `seek_all` waits for it instead.
        self._under_way = asyncio.ensure_future(
            self.call_thread(self._fetch_records, consumer, tps, timeout=timeout_s)
        )
        return dict(await asyncio.shield(self._under_way))

    async def seek_all(self, positions: dict[TP, int]) -> None:
        """See `Reading`."""
        # A read that is under way may bring records of the old positions: let it end first.
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
        """Idle: fetches wait long at the broker for the first record. Else: shortly for many."""
        fetcher = self._ensure_consumer()._fetcher
        fetcher._fetch_max_wait_ms = _IDLE_WAIT_MS if is_idle else _BUSY_WAIT_MS
        fetcher._fetch_min_bytes = 1 if is_idle else _BUSY_FETCH_BYTES

    def end_of(self, tp: TP) -> int | None:
        """See `Reading`."""
        state = self._state_of(tp)
        return None if state is None or state.highwater is None else int(state.highwater)

    def is_held(self, tp: TP) -> bool:
        """See `Reading`."""
        state = self._state_of(tp)
        return state is not None and (state.lso or 0) < (state.highwater or 0)

    def is_read_up(self, tp: TP, position: int) -> bool:
        """See `Reading`."""
        state = self._state_of(tp)
        if state is None or state.highwater is None:
            return False
        # Behind the last delivered record there may be markers: aiokafka's position knows.
        return max(position, self.read_to(tp) or 0) >= int(state.lso)

    def read_to(self, tp: TP) -> int | None:
        """See `Reading`. None also while aiokafka's position counts records that are still on
        their way from its thread to the cycle."""
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
        """Note that what was read of these partitions has reached the cycle, or was dropped."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        for tp in tps:
            if assignment is not None and TopicPartition(*tp) in assignment.tps:
                assignment.state_value(TopicPartition(*tp)).is_handing_over = False

    async def check_group(self) -> None:
        """Raise the error that ended the coordination with the group, as aiokafka's getmany does;
        the reading here doesn't use that."""

        async def check() -> None:
            if self._consumer is not None:
                self._consumer._coordinator.check_errors()

        await self.call_thread(check)

    async def stay_member(self) -> None:
        """Tell aiokafka that this worker is alive. It leaves the group for good when nothing was
        fetched for the poll interval, and a worker without partitions, or one that is still taking
        them over, fetches nothing."""

        async def note() -> None:
            if self._consumer is not None:
                self._consumer._subscription._last_fetch_ended = time.monotonic()

        await self.call_thread(note)

    async def look_for_topics(self) -> None:
        """Ask again about topics of which nothing is known. The group shares out only the topics
        that its leader knows, and aiokafka repeats a failed update after five minutes only."""

        async def look() -> None:
            if self._consumer is not None:
                client = self._consumer._client
                if not all(map(client.cluster.partitions_for_topic, client._topics)):
                    client.force_metadata_update()

        await self.call_thread(look)

    async def does_group_answer(self) -> bool:
        """Does the group's coordinator answer, and know the group's state?"""

        async def ask() -> bool:
            coordinator = self._ensure_consumer()._coordinator
            if coordinator.coordinator_id is None:
                return False
            # Not on the connection of a join: the broker may hold its answers back.
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
        """Do nothing: the engine seeks when it has taken the partitions over."""

    async def wait_empty(self) -> None:
        """Do nothing: when partitions are revoked, the engine has already finished its commit."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Do nothing: offsets are committed with the engine's transactions."""
        return False

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: Faust would check each partition each second for stalled streams."""

    async def _or_crash(self, callback: Any) -> None:
        # aiokafka only logs what a rebalance callback raises, and the worker would idle on.
        try:
            await callback
        except Exception as error:
            self.engine.crash(error)
            raise

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_group(self) -> None:
        """Notice when the coordination with the group has ended: the worker would stay idle, with
        partitions or without."""
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
                # aiokafka stands still until somebody has taken note of the error.
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
        """Return since when the group has given this worker no share although it answers; None: it
        has a share, or the group doesn't answer.

        Brokers that are away are waited for. A worker that is left out for too long logs it and
        reports itself as unwell; in the end it stops, since a new process has a better chance.
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
            except KafkaError as error:  # say a right that was taken away; Faust would log where
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
    """Make a Faust app read for an engine: subscribe to its topics, give it whole record batches.

    Call it once, after all sources and outboxes are added and before the app starts.
    """
    fetching.install()
    app.transport = _Transport(app.conf.broker_consumer, app, engine)
    for topic in engine.topics():
        app.topics.add(app.topic(topic, value_serializer="raw", key_serializer="raw"))

"""Follows the topics into the index: read committed, without a group, from where it stood.

Joining no group it disturbs no worker, and any number of consoles may run side by side.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.console import metrics, schema
from app.console.index import Index, PolledRecords
from app.errors import CommandError, KafkaAwayError
from app.kafka.admin import open_admin
from app.settings import Settings
from streams.topics import Topics

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
FORGET_SECONDS = 600.0
NEW_TOPIC_SECONDS = 30.0
STUCK_SECONDS = 300.0
_POLL_MS = 200
_FETCH_BYTES = 256 << 10  # of one partition; all of them together are in memory twice
_AHEAD_MS = 2_000
"""How far deliveries may be read ahead of the commands they belong to."""


class IndexIsStaleError(Exception):
    """The topics aren't those that the index was made from."""


class Indexer:
    """Keeps the index up to date until it is cancelled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.directory = settings.console_datadir
        self._reads_marks = False
        self.topics: Topics | None = None
        """With their real partitions; None until Kafka told them."""
        self.why_not_ready: str | None = "starting"
        self._index: Index | None = None
        # One thread: SQLite takes one writer, and it mustn't hold the pages up.
        self._thread = ThreadPoolExecutor(1, "index")
        self._polled = time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Whether nothing was read for so long that only a restart may help."""
        return time.monotonic() - self._polled > STUCK_SECONDS

    async def open(self) -> None:
        """Open the index; what isn't ours is made anew. Raises CommandError."""
        await self._open(is_anew=False)

    async def _open(self, *, is_anew: bool) -> None:
        try:
            await self._write(partial(self._take, is_anew=is_anew))
        except (OSError, sqlite3.Error) as error:
            raise CommandError(
                f"can't keep the index in {self.directory} ({error}): set "
                "DIALWATCH_CONSOLE_DATADIR to a directory on a disk with room"
            ) from None

    async def close(self) -> None:
        """Finish what is being written."""
        if self._index is not None:
            await self._write(self._index.close)
        self._thread.shutdown()

    async def run(self) -> None:
        """Follow the topics for ever; Kafka may be away for as long as it likes."""
        while True:
            try:
                await self._follow()
                continue
            except (KafkaAwayError, KafkaError, OSError) as error:
                self.why_not_ready = f"waiting for Kafka: {error}"
                log.warning("%s; trying on", error or type(error).__name__)
            except IndexIsStaleError as error:
                log.warning("%s: the index is built anew", error)
                await self._open(is_anew=True)
                continue
            self._polled = time.monotonic()
            await asyncio.sleep(RETRY_SECONDS)

    async def mark(self, letters: Iterable[tuple[int, int]], handled: str) -> None:
        """Note what became of dead letters before Kafka says so."""
        chosen = list(letters)
        await self._write(lambda: self._opened().mark(chosen, handled))

    async def add_lags(self, at: int, lags: list[tuple[str, int, float | None]]) -> None:
        """Remember how far the group was behind."""
        await self._write(lambda: self._opened().add_lags(at, lags))

    def _take(self, *, is_anew: bool) -> None:
        """Open the index, in its own thread, as one job: whoever writes next meets a whole one."""
        if is_anew:
            if self._index is not None:
                self._index.close()
            schema.remove(self.directory)
        self._index = Index(self._settings)

    async def _follow(self) -> None:
        partitions = await self._partitions()
        self._reads_marks = "marks" in partitions.values()
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client_options(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_bytes=16 * _FETCH_BYTES,
            fetch_max_wait_ms=_POLL_MS,
        )
        try:
            await consumer.start()
            reading = _Reading(consumer, partitions)
            index = self._opened()
            await self._write(partial(index.forget_old_state, time.time_ns() // 1000))
            await reading.seek(await self._write(index.offsets))
            if reading.left():
                self.why_not_ready = "reading what the topics hold"
            looked_at = time.monotonic()
            while True:
                await self._step(reading)
                # An older installation's first redrive makes the topic of marks.
                if not self._reads_marks and time.monotonic() - looked_at > NEW_TOPIC_SECONDS:
                    looked_at = time.monotonic()
                    if "marks" in (await self._partitions()).values():
                        return
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(consumer.stop(), 5.0)

    async def _step(self, reading: "_Reading") -> None:
        chunks, positions = await reading.poll()
        index = self._opened()
        if positions:
            await self._write(partial(index.write, chunks, positions))
        for chunk in chunks:
            metrics.RECORDS.labels(chunk.topic).inc(len(chunk.records))
        metrics.UNREADABLE.set(index.unreadable)
        self._polled = time.monotonic()
        left = reading.left()
        metrics.LEFT.set(left)
        if self.why_not_ready is not None:
            self.why_not_ready = f"reading what the topics hold, {left:,} to go" if left else None
            if not left:
                log.info("the index is up to date")
                await self._write(partial(index.note_up_to_date, time.time_ns() // 1000))
        if time.monotonic() - reading.forgot_at > FORGET_SECONDS:
            reading.forgot_at = time.monotonic()
            now = time.time_ns() // 1000
            await self._write(partial(index.forget, now))
            if not left:
                await self._write(partial(index.note_up_to_date, now))

    async def _partitions(self) -> dict[TopicPartition, str]:
        """Return what is read, and what each holds. Waits for the topics."""
        settings = self._settings
        while True:
            async with open_admin(settings, timeout_s=RETRY_SECONDS) as admin:
                counts = await admin.partition_counts()
            topics = settings.topics
            names = {
                topics.notifications: "commands",
                topics.deliveries: "deliveries",
                topics.inbox_messages: "inbox",
                topics.dead_letters: "letters",
                topics.changelog: "state",
                topics.handled_letters: "marks",
            }
            missing = sorted(
                name for name, holds in names.items() if name not in counts and holds != "marks"
            )
            self._polled = time.monotonic()
            if not missing:
                self.topics = Topics(topics.prefix, topics.group, counts[topics.changelog])
                return {
                    TopicPartition(name, number): holds
                    for name, holds in names.items()
                    for number in range(counts.get(name, 0))
                }
            self.why_not_ready = (
                f"there is no topic {missing[0]}: start a worker, or `dialwatch topics create`; "
                "check DIALWATCH_GROUP and DIALWATCH_TOPIC_PREFIX"
            )
            await asyncio.sleep(RETRY_SECONDS)

    def _opened(self) -> Index:
        if self._index is None:
            raise RuntimeError("the index is not open")
        return self._index

    async def _write(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Reading:
    """One connection's way through the logs."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: dict[TopicPartition, str]) -> None:
        self._consumer = consumer
        self._holds = partitions
        self._ends: dict[TopicPartition, int] = {}
        """As they stood at the start: to be reached before the console is ready."""
        self._positions: dict[TopicPartition, int] = {}
        self._clocks: dict[TopicPartition, int] = {}
        self.forgot_at = time.monotonic()

    async def seek(self, known: dict[tuple[str, int], int]) -> None:
        """Go to where reading goes on. Raises IndexIsStaleError where a log ends before that."""
        consumer, tps = self._consumer, list(self._holds)
        consumer.assign(tps)
        begins = await consumer.beginning_offsets(tps)
        self._ends = await consumer.end_offsets(tps)
        for tp in tps:
            position = known.get((tp.topic, tp.partition), 0)
            if position > self._ends[tp]:
                raise IndexIsStaleError(f"{tp.topic} was made anew")
            # What retention took while the console was away can't be shown.
            self._positions[tp] = max(position, begins[tp])
            consumer.seek(tp, self._positions[tp])

    async def poll(self) -> tuple[list[PolledRecords], dict[tuple[str, int], int]]:
        """Return what came, and where each partition of it goes on."""
        got = await self._consumer.getmany(*self._wanted(), timeout_ms=_POLL_MS)
        chunks, positions = [], {}
        for tp, records in got.items():
            chunks.append(PolledRecords(self._holds[tp], tp.topic, tp.partition, records))
            self._clocks[tp] = records[-1].timestamp
        for tp in self._holds:
            # Also without records: a marker of a transaction is an offset too.
            position = await self._consumer.position(tp)
            if position != self._positions[tp]:
                self._positions[tp] = positions[tp.topic, tp.partition] = position
        return chunks, positions

    def left(self) -> int:
        """Return how many offsets are between here and the ends that stood at the start."""
        return sum(max(end - self._positions[tp], 0) for tp, end in self._ends.items())

    def _wanted(self) -> list[TopicPartition]:
        """While a backlog is read, deliveries wait for the commands whose titles they have."""
        commands = [self._clocks.get(tp, 0) for tp in self._behind("commands")]
        if not commands:
            return list(self._holds)
        most = min(commands) + _AHEAD_MS
        return [
            tp
            for tp, holds in self._holds.items()
            if holds != "deliveries" or self._clocks.get(tp, 0) <= most
        ]

    def _behind(self, holds: str) -> list[TopicPartition]:
        return [
            tp
            for tp, held in self._holds.items()
            if held == holds and self._positions[tp] < self._ends[tp]
        ]

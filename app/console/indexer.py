"""Reads the topics into the index: committed records, without a group, from the stored offsets.

Without a group it doesn't disturb workers, and any number of consoles may run side by side.
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
from app.console.lookups import LOOK_AGAIN_SECONDS
from app.errors import CommandError, KafkaAwayError
from app.kafka.admin import open_admin
from app.settings import Settings
from streams.topics import Topics

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
FORGET_SECONDS = 600.0
STUCK_SECONDS = 300.0
_POLL_MS = 200
_FETCH_BYTES = 256 << 10  # of one partition; all of them together are in memory twice
_AHEAD_MS = 2_000
"""How far deliveries may be read ahead of the commands they belong to."""


class IndexIsStaleError(Exception):
    """The topics aren't the ones that the index was made from."""


class Indexer:
    """Keeps the index up to date until it is cancelled."""

    def __init__(self, settings: Settings, *, look_again_s: float = LOOK_AGAIN_SECONDS) -> None:
        self._settings = settings
        self._look_again_s = look_again_s
        self.directory = settings.console_datadir
        self.topics: Topics | None = None
        """The topics with their real partitions; None: not known yet."""
        self.why_not_ready: str | None = "starting"
        self._index: Index | None = None
        # SQLite allows one writer. It has a thread of its own so that pages needn't wait for it.
        self._thread = ThreadPoolExecutor(1, "index")
        self._polled = time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Was nothing read for so long that only a restart may help?"""
        return time.monotonic() - self._polled > STUCK_SECONDS

    async def open(self) -> None:
        """Open the index; make it anew where it is of another version or installation. Raises
        CommandError."""
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
        """Read the topics until cancelled. While Kafka is away, wait for it."""
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
        """See `Index.mark`."""
        chosen = list(letters)
        await self._write(lambda: self._opened().mark(chosen, handled))

    async def add_lags(self, at: int, lags: list[tuple[str, int, float | None]]) -> None:
        """See `Index.add_lags`."""
        await self._write(lambda: self._opened().add_lags(at, lags))

    def _take(self, *, is_anew: bool) -> None:
        """Open the index. Runs in the index's thread as one job, so that the next writer finds it
        complete."""
        if is_anew:
            if self._index is not None:
                self._index.close()
            schema.remove(self.directory)
        self._index = Index(self._settings)

    async def _follow(self) -> None:
        """Read until there are other partitions: more of them, or of the topic of marks, which in
        an older installation the first redrive creates."""
        partitions = await self._partitions()
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
                if time.monotonic() - looked_at > self._look_again_s:
                    looked_at = time.monotonic()
                    with suppress(KafkaAwayError):  # if it is, reading ends with the same
                        if await self._partitions() != partitions:
                            log.info("the topics have other partitions now")
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
        """Return the partitions to read, and what each holds. Waits until the topics exist."""
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
    """Reading the logs over one connection."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: dict[TopicPartition, str]) -> None:
        self._consumer = consumer
        self._holds = partitions
        self._ends: dict[TopicPartition, int] = {}
        """The logs' ends at the start, which must be reached before the console is ready."""
        self._positions: dict[TopicPartition, int] = {}
        self._clocks: dict[TopicPartition, int] = {}
        self.forgot_at = time.monotonic()

    async def seek(self, known: dict[tuple[str, int], int]) -> None:
        """Seek to the stored offsets. Raises IndexIsStaleError where a log ends before its one."""
        consumer, tps = self._consumer, list(self._holds)
        consumer.assign(tps)
        begins = await consumer.beginning_offsets(tps)
        self._ends = await consumer.end_offsets(tps)
        for tp in tps:
            position = known.get((tp.topic, tp.partition), 0)
            if position > self._ends[tp]:
                raise IndexIsStaleError(f"{tp.topic} was made anew")
            # Records that retention deleted while the console was away are skipped.
            self._positions[tp] = max(position, begins[tp])
            consumer.seek(tp, self._positions[tp])

    async def poll(self) -> tuple[list[PolledRecords], dict[tuple[str, int], int]]:
        """Return the records that came, and the next offset of each of their partitions."""
        got = await self._consumer.getmany(*self._wanted(), timeout_ms=_POLL_MS)
        chunks, positions = [], {}
        for tp, records in got.items():
            chunks.append(PolledRecords(self._holds[tp], tp.topic, tp.partition, records))
            self._clocks[tp] = records[-1].timestamp
        for tp in self._holds:
            # Even without new records: a transaction's marker takes an offset too.
            position = await self._consumer.position(tp)
            if position != self._positions[tp]:
                self._positions[tp] = positions[tp.topic, tp.partition] = position
        return chunks, positions

    def left(self) -> int:
        """Return how many offsets are left to the ends at the start."""
        return sum(max(end - self._positions[tp], 0) for tp, end in self._ends.items())

    def _wanted(self) -> list[TopicPartition]:
        """Return the partitions to read now. In a backlog deliveries wait for their commands, which
        have the titles."""
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

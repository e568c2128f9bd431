"""What a round of `make test-months` is given: servers, an installation, time that passes, books.

Months pass in minutes: the records' own time is what the rules go by, and what Kafka, Redis and the
workers wait for is short (`KAFKA`, `tests/months/short.py`).
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.local.stack import Stack
from app.local.worker import WorkerProcess
from app.sandbox.run import running_sandbox
from app.sandbox.server import Sandbox
from tests import kafka_admin
from tests.faults.history import RUN_LENGTH
from tests.faults.suite import Round
from tests.installation import Installation
from tests.months.history import Months
from tests.months.short import ShortWorker

# Kafka's own long constants.
KAFKA: dict[str, str | int] = {
    "log.retention.check.interval.ms": 1_000,
    "log.segment.delete.delay.ms": 100,
    "log.cleaner.backoff.ms": 500,
    "offsets.retention.minutes": 1,
    "offsets.retention.check.interval.ms": 1_000,
    "transactional.id.expiration.ms": 60_000,
    "transaction.remove.expired.transaction.cleanup.interval.ms": 1_000,
    "producer.id.expiration.ms": 20_000,
    "producer.id.expiration.check.interval.ms": 1_000,
}
# Everything older than a second goes, the segment that is written to as well.
EXPIRED = {"retention.ms": "1000", "segment.ms": "1000"}
CALLS_OF_A_LEG = 300
CHUNK = 20
SETTLE_SECONDS = 240.0
READY_SECONDS = 120.0
MONTH_SETTINGS = {
    "DIALWATCH_RUN_LENGTH": str(RUN_LENGTH),
    "DIALWATCH_WECHAT_RATE": "2000",
}


class Archive(Installation):
    """An installation whose records are remembered here when retention has taken them."""

    def __init__(self, kafka: str, redis_url: str, directory: Path) -> None:
        super().__init__(kafka, redis_url, directory)
        self._kept: dict[str, dict[tuple[int, int], Any]] = {}

    async def read_named(self, name: str) -> list[Any]:
        """Return all committed records that there ever were, as far as this was called in time."""
        kept = self._kept.setdefault(name, {})
        kept.update({(one.partition, one.offset): one for one in await super().read_named(name)})
        return [kept[place] for place in sorted(kept)]

    def worker(self, *, is_started: bool = True, **variables: str) -> ShortWorker:
        """Add a worker with short constants."""
        made = ShortWorker(
            self.directory / f"worker-{len(self.workers)}", self.variables | variables
        )
        assert made.environment is not None
        made.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        self.workers.append(made)
        if is_started:
            made.start()
        return made


class Month(Round):
    """One round's world: the tools of the fault suite, and those for time."""

    history: Months
    installation: Archive

    def __init__(self, servers: Stack, directory: Path, seed: int, *, partitions: int) -> None:
        super().__init__(servers, directory, seed, partitions=partitions)
        self.history = Months(random.Random(seed), partitions)
        self.installation = Archive(servers.bootstrap_servers, servers.redis_url, directory)
        self.installation.variables |= MONTH_SETTINGS | {"DIALWATCH_PARTITIONS": str(partitions)}
        self.settle_s = SETTLE_SECONDS
        self.sandbox: Sandbox

    async def act(self, acts: Callable[["Month"], Awaitable[None]], *, has_topics: bool) -> None:
        """Run one round."""
        with running_sandbox() as (self.sandbox, environment):
            self.installation.variables |= environment
            if has_topics:
                await self.installation.create_topics()
            try:
                await acts(self)
            finally:
                with suppress(KafkaError, OSError):  # the topics end with their servers
                    await asyncio.to_thread(self.installation.close)

    # -- workers ------------------------------------------------------------------------------

    async def begin(self, count: int = 2) -> None:
        """Start the workers; return when each is ready."""
        while len(self.workers) < count:
            self.workers.append(self.installation.worker(is_started=False))
        for worker in self.workers:
            self.launch(worker)
        await self.all_ready()

    async def ready(self, worker: WorkerProcess, within_s: float = READY_SECONDS) -> None:
        """Wait until a worker has its share, which may be nothing."""
        deadline = time.monotonic() + within_s
        while True:
            with suppress(OSError):
                if await asyncio.to_thread(worker.is_serving):
                    return
            assert worker.pid is not None, f"a worker ended: {worker.last_words()}"
            assert time.monotonic() < deadline, f"not ready after {within_s:.0f} s"
            await asyncio.sleep(0.1)

    async def all_ready(self) -> None:
        for worker in self.workers:
            await self.ready(worker)

    async def end_all(self) -> None:
        """Everybody stops, as for a holiday."""
        for worker in self.workers:
            if worker.pid is not None:
                await self.end(worker)

    async def deploy(self) -> None:
        """One worker after the other is stopped and started."""
        for worker in self.workers:
            await self.end(worker)
            self.launch(worker)
            await self.ready(worker)

    def lines(self, pattern: str) -> int:
        """How many lines of all workers' logs have a pattern in them."""
        return sum(
            len(re.findall(pattern, one.log.read_text(encoding="utf-8", errors="replace")))
            for one in self.workers
            if one.log.exists()
        )

    # -- time ---------------------------------------------------------------------------------

    async def live(self, calls: int = CALLS_OF_A_LEG) -> None:
        """Let the next days pass, and a leg of calls after them; return when all is told."""
        async with self._producer() as producer:
            await self.stand_still()
            for events in self.history.next_leg():
                await self._send(producer, events)
                await self.stand_still()
            until = self.history.calls + calls
            halfway = until - calls // 2
            is_announced = False
            while self.history.calls < until:
                await self._send(producer, self.history.some(CHUNK))
                if self.history.calls > halfway and not is_announced:
                    is_announced = True
                    await self._send(producer, self.history.announcement(self.history.legs))
                await asyncio.sleep(0.05)
            await self.stand_still()

    async def fold(self, calls: int = CALLS_OF_A_LEG) -> None:
        """Let calls come; return when they are folded, whatever has ended of what they notice."""
        async with self._producer() as producer:
            await self._send(producer, self.history.some(calls))
        await self.installation.fold_all(self.check_workers, self.settle_s)

    async def compare_books(self) -> None:
        """The last day's tick, then all that was told and remembered beside the oracle's."""
        async with self._producer() as producer:
            await self.stand_still()
            await self._send(producer, self.history.after_legs())
        await self.stand_still()
        await asyncio.sleep(1.0)  # what comes too often comes soon
        await self._compare(self.sandbox)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.installation.brokers, enable_idempotence=True, acks="all"
        )
        try:
            await producer.start()
            yield producer
        finally:
            await producer.stop()

    async def expire(self, *names: str) -> None:
        """Retention empties topics, by their real names; the books keep what was in them."""
        for name in names:
            await self.installation.read_named(name)
            await self.installation.configure(name, EXPIRED)
        deadline = time.monotonic() + 60.0
        waiting = set(names)
        while waiting:
            assert time.monotonic() < deadline, f"retention left something in {sorted(waiting)}"
            await asyncio.sleep(0.5)
            waiting = {name for name in waiting if await self.records_in(name)}
        for name in names:
            await self.installation.configure(name, {"retention.ms": "-1"})

    async def records_in(self, name: str) -> int:
        """How many offsets a topic holds, by its real name."""
        count = 0
        for number in range(self.installation.partitions):
            first, end = await kafka_admin.bounds(self.installation, name, number)
            count += end - first
        return count

    async def expire_all(self) -> None:
        """Retention empties whatever it may: all topics that aren't compacted."""
        topics = self.installation.topics
        compacted = {topics.changelog, topics.accounts}
        names = [one.name for one in (*topics.contract(), *topics.internal())]
        await self.expire(*[name for name in names if name not in compacted])

    async def forget_offsets(self) -> None:
        """The group was stopped for longer than its offsets live."""
        await kafka_admin.delete_group(self.installation)

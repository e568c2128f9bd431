"""What an act of `make test-recover` is given: two clusters, an installation, and its books.

The books are the fault suite's: whatever befalls an installation, in the end everything that was
published is told once and remembered as the oracle remembers it.
"""

import asyncio
import random
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.local.stack import Stack
from app.local.worker import WorkerProcess
from streams.engine.types import TP
from tests.faults.history import SHARED_LINE, Event
from tests.faults.suite import Round, log_of, release_0_1_0
from tests.installation import PARTITIONS, Installation
from tests.kafka_admin import reset_offsets
from tests.months.history import Months
from tests.months.month import MONTH_SETTINGS, Month

SETTLE_SECONDS = 120.0


class OwnLines(Months):
    """No line has calls from several partitions: read again, they would meet in another order, and
    its alerts name other calls."""

    def _call(self, name: str) -> Event:
        event = super()._call(name)
        if event.value["line_id"] == SHARED_LINE:
            event.value["line_id"] = f"line-{event.partition}"
            self.shared_calls[-1] -= 1
        return event


class Bookkeeper(Installation):
    """An installation that knows what `deliveries` held before Kafka was lost: what Redis knows to
    be sent is neither sent nor written there again."""

    lost: list[dict[str, Any]]

    async def read_values(self, topic: str) -> list[dict[str, Any]]:
        found = await super().read_values(topic)
        if topic == "deliveries":
            known = {one["notification_id"] for one in found}
            found += [one for one in self.lost if one["notification_id"] not in known]
        return found


class World(Month):
    """One installation; what it lives through is the act's."""

    def __init__(self, servers: Stack, directory: Path, seed: int, *, calls: int) -> None:
        super().__init__(servers, directory, seed, partitions=PARTITIONS)
        self.history = OwnLines(random.Random(seed), PARTITIONS)
        own = Bookkeeper(servers.bootstrap_servers, servers.redis_url, directory)
        own.variables |= MONTH_SETTINGS
        own.lost = []
        self.installation = own  # type: ignore[assignment] # no archive: what is gone is gone
        self.settle_s = SETTLE_SECONDS
        self.leg_calls = calls
        self.said: list[list[Event] | None] = []
        """All that was published, in order; None: then everything stood still."""

    async def leg(self) -> None:
        """Some days and calls, until all is told."""
        await self.live(self.leg_calls)

    async def _send(self, producer: AIOKafkaProducer, events: list[Event]) -> None:
        self.said.append(events)
        await super()._send(producer, events)

    async def stand_still(self) -> None:
        await super().stand_still()
        self.said.append(None)

    async def publish_again(self, since: int) -> None:
        """Publish once more what was published since a place in `said`, in the same order."""
        async with self._producer() as producer:
            for events in self.said[since:]:
                if events is None:
                    await self.fold_all()
                else:
                    await Round._send(self, producer, events)
        await self.stand_still()

    async def fold_all(self) -> None:
        """Wait until everything that lies there is folded, whatever came of it."""
        await self.installation.fold_all(self.check_workers, self.settle_s)

    async def counts(self) -> dict[str, int]:
        """How many records each topic of the contract holds."""
        return {
            topic.name: len(await self.installation.read_named(topic.name))
            for topic in self.installation.topics.contract()
        }

    # -- versions -----------------------------------------------------------------------------

    async def release(self) -> Path:
        """0.1.0's tree."""
        directory = self.installation.directory / "0.1.0"
        if not directory.exists():
            await asyncio.to_thread(release_0_1_0, directory)
        return directory

    async def roll(self, release: Path | None) -> None:
        """One worker after the other becomes another version, this one or a release."""
        for worker in self.workers:
            await self.end(worker)
            self.make(worker, release)
            self.launch(worker)
            await self.ready(worker)

    def make(self, worker: WorkerProcess, release: Path | None) -> None:
        """Say which version a worker is from its next start on."""
        assert worker.environment is not None
        if release is None:
            worker.environment.pop("PYTHONPATH", None)
        else:
            worker.environment["PYTHONPATH"] = str(release)

    async def ended(self, worker: WorkerProcess) -> str:
        """Wait until a worker refuses to go on; return its last line."""
        assert await self.gone(worker, 120.0) == 1
        self.down.add(worker.directory)
        return log_of(worker).strip().splitlines()[-1]

    # -- Kafka's own tools --------------------------------------------------------------------

    def back_up(self, copy: Path) -> None:
        """Copy the broker's data, as they lie on its disk while it is stopped."""
        kafka = self.servers.kafka
        kafka.stop()
        shutil.copytree(kafka.directory / "data", copy)
        kafka.start()

    async def restore(self, copy: Path) -> None:
        """The broker is lost; another one starts on the copy."""
        made: Any = self.installation
        made.lost = await made.read_values("deliveries")
        await asyncio.to_thread(self._restore, copy)

    def _restore(self, copy: Path) -> None:
        kafka = self.servers.kafka
        kafka.kill()
        shutil.rmtree(kafka.directory / "data")
        shutil.copytree(copy, kafka.directory / "data")
        kafka.start()

    async def decide(self, topics: Collection[str], *, to_end: bool) -> None:
        """`kafka-consumer-groups --reset-offsets --execute --topic … --to-latest`, or
        `--to-earliest`."""
        tps = [
            TopicPartition(topic, number)
            for topic in topics
            for number in range(self.installation.partitions)
        ]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.installation.brokers)
        try:
            await consumer.start()
            looking = consumer.end_offsets if to_end else consumer.beginning_offsets
            found = await looking(tps)
        finally:
            await consumer.stop()
        await reset_offsets(self.installation, {TP(*tp): at for tp, at in found.items()})  # type: ignore[arg-type]

    async def refused(self, *words: str) -> str:
        """Start one worker; return the line with which it ends, which holds these words."""
        worker = self.workers[0]
        worker.launch()
        try:
            code = await self.gone(worker, 60.0)
        finally:
            worker.kill()
        said = log_of(worker).strip().splitlines()[-1]
        self.down.add(worker.directory)
        assert code == 1, said
        assert all(word in said for word in words), said
        return said

    async def move(self, other: Stack, topics: Collection[str]) -> None:
        """Another cluster, on which the topics hold the same records under other offsets, as
        MirrorMaker copies them: read committed, into the same partitions."""
        records: dict[str, list[Any]] = {
            topic: await self.installation.read_named(topic) for topic in topics
        }
        self.installation.variables["DIALWATCH_KAFKA_BOOTSTRAP_SERVERS"] = other.bootstrap_servers
        for worker in self.workers:
            assert worker.environment is not None
            worker.environment["DIALWATCH_KAFKA_BOOTSTRAP_SERVERS"] = other.bootstrap_servers
        await self.installation.create_topics()
        producer = AIOKafkaProducer(bootstrap_servers=other.bootstrap_servers, acks="all")
        try:
            await producer.start()
            sent = [
                await producer.send(
                    topic,
                    one.value,
                    key=one.key,
                    partition=one.partition,
                    timestamp_ms=one.timestamp,
                    headers=list(one.headers),
                )
                for topic, every in records.items()
                for one in every
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

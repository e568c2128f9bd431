"""One dialwatch installation on a shared cluster, used from outside: its topics and processes."""

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.kafka.admin import open_admin
from app.kafka.topic_setup import create_topics
from app.local.console import ConsoleProcess
from app.local.worker import WorkerProcess
from app.operations.lag import outboxes, read_topics
from app.settings import PREFIX, Settings, load_settings
from streams.engine.types import TP
from streams.kafka.log_scan import END, LogScan
from streams.kafka.producer import within
from streams.topics import Topics

PARTITIONS = 4
PATIENCE_SECONDS = 120.0
_MARKER_SECONDS = 10.0
"""How long the markers of a transaction that has ended may take; one that is open has none."""


class Published(NamedTuple):
    """A record to publish: the contract topic, key and value."""

    topic: str
    key: str | bytes | None
    value: Any
    """bytes and None are published unchanged, everything else as JSON."""
    partition: int | None = None


class Installation:
    """An installation with unique names, so that tests don't meet. `variables`: settings of all its
    processes; a test may add some before it starts them."""

    def __init__(self, kafka: str, redis_url: str, directory: Path) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.directory = directory
        self.variables = {
            "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": kafka,
            "DIALWATCH_REDIS_URL": redis_url,
            "DIALWATCH_GROUP": self.name,
            "DIALWATCH_TOPIC_PREFIX": f"{self.name}.",
            "DIALWATCH_PARTITIONS": str(PARTITIONS),
            "DIALWATCH_TICK_SECONDS": "0",
            "DIALWATCH_SESSION_TIMEOUT_SECONDS": "6",
        }
        self.workers: list[WorkerProcess] = []

    def environment(self) -> dict[str, str]:
        """Return the whole environment for a command of this installation."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return own | self.variables

    def settings(self, **given: object) -> Settings:
        """Return the settings as a command would load them."""
        own = {
            name.removeprefix("DIALWATCH_").lower(): value for name, value in self.variables.items()
        }
        return load_settings(**own, **given)

    @property
    def topics(self) -> Topics:
        return self.settings().topics

    @property
    def brokers(self) -> str:
        return self.variables["DIALWATCH_KAFKA_BOOTSTRAP_SERVERS"]

    async def create_topics(self) -> None:
        await create_topics(self.settings())

    async def add_partitions(self, count: int) -> None:
        """Give all topics more partitions: all that is in them stays where it is."""
        async with open_admin(self.settings(), timeout_s=PATIENCE_SECONDS) as admin:
            mine = [name for name in await admin.partition_counts() if name.startswith(self.name)]
            await admin.add_partitions(dict.fromkeys(mine, count))
        self.variables["DIALWATCH_PARTITIONS"] = str(count)

    def worker(self, *, is_started: bool = True, **variables: str) -> WorkerProcess:
        """Add a worker. `variables`: settings beyond the installation's."""
        made = WorkerProcess(
            self.directory / f"worker-{len(self.workers)}", self.variables | variables
        )
        made.start_seconds = PATIENCE_SECONDS
        self.workers.append(made)
        if is_started:
            made.start()
        return made

    def console(self, *, is_started: bool = True, **variables: str) -> ConsoleProcess:
        """Add a console. `variables`: settings beyond the installation's. Returns when it is
        ready."""
        made = ConsoleProcess(
            self.directory / f"console-{len(self.workers)}", self.variables | variables
        )
        made.start_seconds = PATIENCE_SECONDS
        self.workers.append(made)
        if is_started:
            made.start()
        return made

    def close(self) -> None:
        """End all workers and consoles, and remove the topics."""
        for worker in self.workers:
            worker.kill()
        asyncio.run(self.delete_topics())

    async def delete_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        try:
            await admin.start()
            mine = [name for name in await admin.list_topics() if name.startswith(self.name)]
            await admin.delete_topics(mine)
        finally:
            await admin.close()

    async def delete_topic(self, topic: str) -> None:
        """Delete a contract topic; return when it is gone."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        try:
            await admin.start()
            await admin.delete_topics([f"{self.name}.{topic}"])
            while f"{self.name}.{topic}" in await admin.list_topics():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        finally:
            await admin.close()

    async def configure(self, topic: str, settings: dict[str, str]) -> None:
        """Set a topic's settings, given its real name; settings that aren't named are reset."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        try:
            await admin.start()
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
        finally:
            await admin.close()

    async def publish(self, records: Iterable[Published]) -> None:
        """Publish records; return when Kafka has them all. Each partition keeps their order, and
        what follows accounts comes after them: a worker that is idle mostly knows them then."""
        producer = AIOKafkaProducer(bootstrap_servers=self.brokers, linger_ms=5)
        try:
            await producer.start()
            sent, last = [], ""
            for topic, key, value, partition in records:
                if last == "accounts" != topic:
                    await asyncio.gather(*sent)
                last = topic
                raw = value
                if value is not None and not isinstance(value, bytes):
                    raw = json.dumps(value, ensure_ascii=False).encode()
                sent.append(
                    await producer.send(
                        f"{self.name}.{topic}",
                        raw,
                        key=key.encode() if isinstance(key, str) else key,
                        partition=partition,
                    )
                )
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def publish_named(self, name: str, key: bytes, value: bytes | None) -> None:
        """Publish one record into a topic by its real name."""
        producer = AIOKafkaProducer(bootstrap_servers=self.brokers)
        try:
            await producer.start()
            await producer.send_and_wait(name, value, key=key)
        finally:
            await producer.stop()

    @property
    def partitions(self) -> int:
        return int(self.variables["DIALWATCH_PARTITIONS"])

    async def read(self, topic: str) -> list[Any]:
        """Return all committed records of a contract topic, as aiokafka's."""
        return await self.read_named(f"{self.name}.{topic}")

    async def read_named(self, name: str) -> list[Any]:
        """Return all committed records of a topic, given its real name: also those of a commit that
        was only just answered. Up to the first open transaction."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.brokers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
            tps = [TopicPartition(name, number) for number in range(self.partitions)]
            consumer.assign(tps)
            ends = await _committed_ends(consumer, tps)
            records: list[Any] = []
            while [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    records += batch
            return records
        finally:
            await within(10.0, consumer.stop())

    async def unfolded(self, names: Iterable[str]) -> dict[str, int]:
        """Return topic → number of committed records that the group hasn't folded. Real names."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.brokers, group_id=self.name, enable_auto_commit=False
        )
        left = {}
        try:
            await consumer.start()
            for name in names:
                committed = {
                    number: await consumer.committed(TopicPartition(name, number)) or 0
                    for number in range(self.partitions)
                }
                left[name] = sum(
                    record.offset >= committed[record.partition]
                    for record in await self.read_named(name)
                )
        finally:
            await within(10.0, consumer.stop())
        return left

    @property
    def folded_topics(self) -> list[str]:
        """The real names of the topics that are folded, notifications last: into these all others
        lead. The group also reads its outboxes."""
        names = [name for name in read_topics(self.topics) if name not in outboxes(self.topics)]
        return sorted(names, key=lambda name: name == self.topics.notifications)

    async def fold_all(
        self, check: Callable[[], object] = lambda: None, within_s: float = PATIENCE_SECONDS
    ) -> None:
        """Wait until the group has folded all that lies in its topics, whatever came of it; its
        outboxes may hold more. `check` is called meanwhile. Fails after `within_s` seconds."""
        deadline = time.monotonic() + within_s
        empty = 0
        while empty < 2:  # what was folded between two looks may have led to a topic seen before
            left = await self.unfolded(self.folded_topics)
            empty = 0 if any(left.values()) else empty + 1
            check()
            assert empty or time.monotonic() < deadline, f"after {within_s:.0f} s: {left} unfolded"
            if not empty:
                await asyncio.sleep(0.2)

    async def read_values(self, topic: str) -> list[dict[str, Any]]:
        """Return the values, as JSON, of all committed records of a contract topic."""
        return [json.loads(record.value) for record in await self.read(topic)]

    async def wait_for(
        self,
        topic: str,
        is_enough: Callable[[list[dict[str, Any]]], bool],
        within_s: float = PATIENCE_SECONDS,
    ) -> list[dict[str, Any]]:
        """Read a contract topic until `is_enough` of its values; return these. Fails after
        `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while True:
            values = await self.read_values(topic)
            if is_enough(values):
                return values
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"after {within_s:.0f} s {topic} holds only {len(values)}: {values[-3:]}"
                )
            await asyncio.sleep(0.2)


async def _committed_ends(consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> Any:
    """Return where reading what is committed ends. A commit is answered before its markers are in
    the logs: waits for those of all that is there now, unless a transaction stays open."""
    there = await LogScan(consumer._client).offsets((TP(*tp) for tp in tps), END)
    deadline = time.monotonic() + _MARKER_SECONDS
    while True:
        ends = await consumer.end_offsets(tps)
        if all(ends[tp] >= there[TP(*tp)] for tp in tps) or time.monotonic() > deadline:
            return ends
        await asyncio.sleep(0.02)

"""One installation as an operator's command sees it: its settings, its topics, its logs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiokafka.errors import KafkaError

from app.errors import CommandError, KafkaAwayError
from app.kafka.admin import ClusterAdmin, open_admin
from app.kafka.topic_setup import common_count
from app.settings import Settings, variable
from streams.engine.types import TP
from streams.kafka.log_scan import LogScan
from streams.topics import Topics, partition_of

CONNECT_SECONDS = 15.0


@dataclass(frozen=True)
class Installation:
    """Connected to Kafka for reading. Nothing of it is shared with a worker."""

    settings: Settings
    topics: Topics
    """With the partitions that the co-partitioned topics really have."""
    counts: dict[str, int]
    """Partitions of every topic that stands, by real name."""
    admin: ClusterAdmin
    logs: LogScan

    def partitions(self, topic: str) -> list[TP]:
        """Return a topic's partitions. Raises CommandError where there is no such topic."""
        return [TP(topic, number) for number in range(self._count(topic))]

    def partition(self, topic: str, key: bytes) -> TP:
        """Return where a key of a topic lies. Raises the same."""
        return TP(topic, partition_of(key, self._count(topic)))

    def _count(self, topic: str) -> int:
        if topic not in self.counts:
            raise CommandError(
                f"there is no topic {topic}: check {variable('topic_prefix')} and "
                f"{variable('group')}; `dialwatch topics create` makes what is missing"
            )
        return self.counts[topic]


@asynccontextmanager
async def open_installation(settings: Settings) -> AsyncIterator[Installation]:
    """Connect. Raises KafkaAwayError when Kafka is away, or goes away meanwhile."""
    async with open_admin(settings, timeout_s=CONNECT_SECONDS) as admin:
        logs = LogScan(admin.client)
        try:
            counts = await logs.partition_counts()
            topics = replace(settings.topics, partitions=common_count(settings.topics, counts))
            yield Installation(settings, topics, counts, admin, logs)
        except KafkaError as error:
            raise KafkaAwayError(
                f"Kafka at {settings.kafka_bootstrap_servers} doesn't let this be read "
                f"({type(error).__name__}): check that its brokers are up and this user's rights, "
                "then run it again"
            ) from error

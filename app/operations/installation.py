"""One installation for operators' commands: its settings, topics and logs."""

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
    """A connection to Kafka for reading. It shares nothing with workers."""

    settings: Settings
    topics: Topics
    """The topics with the real number of partitions of the co-partitioned ones."""
    counts: dict[str, int]
    """Existing topic (real name) → number of partitions."""
    admin: ClusterAdmin
    logs: LogScan

    def partitions(self, topic: str) -> list[TP]:
        """Return a topic's partitions. Raises CommandError where there is no such topic."""
        return [TP(topic, number) for number in range(self._count(topic))]

    def partition(self, topic: str, key: bytes) -> TP:
        """Return the partition of a key. Raises CommandError where there is no such topic."""
        return TP(topic, partition_of(key, self._count(topic)))

    async def as_it_stands(self) -> "Installation":
        """Return it with the partitions that its topics have now. Raises KafkaError, and
        WrongTopicsError where they don't fit together."""
        counts = await self.logs.partition_counts()
        ours = self.settings.topics
        topics = replace(ours, partitions=common_count(ours, counts))
        return replace(self, topics=topics, counts=counts)

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
        unread = Installation(settings, settings.topics, {}, admin, LogScan(admin.client))
        try:
            yield await unread.as_it_stands()
        except KafkaError as error:
            raise KafkaAwayError(
                f"Kafka at {settings.kafka_bootstrap_servers} doesn't let this be read "
                f"({type(error).__name__}): check that its brokers are up and this user's rights, "
                "then run it again"
            ) from error

"""The topics: names, partitions, clean-up, and where a key lies. No records, no clients."""

from dataclasses import dataclass
from enum import StrEnum

from aiokafka.partitioner import murmur2


class ContractTopic(StrEnum):
    """What dialwatch reads from others, and what others read from it, by contract name."""

    CALL_RECORDS = "call-records"
    RECHARGES = "recharges"
    ACCOUNTS = "accounts"
    ANNOUNCEMENTS = "announcements"
    TICKS = "ticks"
    NOTIFICATIONS = "notifications"
    INBOX_MESSAGES = "inbox-messages"
    DELIVERIES = "deliveries"
    DEAD_LETTERS = "dead-letters"
    WECHAT_EVENTS = "wechat-events"


# A worker holds the same partition number of each: all of an account's state is in one place.
CO_PARTITIONED = (
    ContractTopic.CALL_RECORDS,
    ContractTopic.RECHARGES,
    ContractTopic.ACCOUNTS,
    ContractTopic.TICKS,
    ContractTopic.NOTIFICATIONS,
)


# What a worker's transactions write.
_WRITTEN = (
    ContractTopic.NOTIFICATIONS,
    ContractTopic.INBOX_MESSAGES,
    ContractTopic.DELIVERIES,
    ContractTopic.DEAD_LETTERS,
)

# A dead letter is the record and where it came from, a line segment what one poll says of a line:
# both may be longer than anything that others could publish (1 MiB, the broker's default).
_LONGEST_OF_OURS = 4 << 20

# What is deleted goes in whole segments, and the one that is written stays: with Kafka's 1 GiB
# each partition of each of our topics would keep so much.
_QUEUE_SEGMENT_BYTES = 64 << 20
# The segment that is written is never compacted, so it is as small as the longest record allows.
_CHANGELOG_SEGMENT_BYTES = _LONGEST_OF_OURS
# Compacted once this share is new: a restore reads 1 / (1 - 0.3) of what lives, and a segment.
_CHANGELOG_DIRTY_RATIO = 0.3
# Each transaction's marker is kept as long as deletions are. At 20 a second the 24 hours that are
# usual are 140 MB a partition, many times what lives. Who reads a changelog from its beginning, or
# goes on in it, must be through within this time, or may miss a deletion.
CHANGELOG_DELETIONS_KEPT_SECONDS = 3600


@dataclass(frozen=True)
class Topic:
    """One topic as `dialwatch topics create` makes it."""

    name: str
    partitions: int
    compacted: bool = False
    max_message_bytes: int | None = None
    """None: the broker's default."""
    is_internal: bool = False
    """Only this group's workers read it: it loses nothing by time."""

    def configs(self) -> dict[str, str]:
        """Return the settings it is made with, by Kafka's names for them."""
        configs = {"cleanup.policy": "compact" if self.compacted else "delete"}
        if self.max_message_bytes is not None:
            configs["max.message.bytes"] = str(self.max_message_bytes)
        if not self.is_internal:
            return configs
        if self.compacted:
            configs["segment.bytes"] = str(_CHANGELOG_SEGMENT_BYTES)
            configs["min.cleanable.dirty.ratio"] = str(_CHANGELOG_DIRTY_RATIO)
            configs["delete.retention.ms"] = str(CHANGELOG_DELETIONS_KEPT_SECONDS * 1000)
        else:
            configs["retention.ms"] = configs["retention.bytes"] = "-1"
            configs["segment.bytes"] = str(_QUEUE_SEGMENT_BYTES)
        return configs


@dataclass(frozen=True)
class Topics:
    """Every topic name of one installation. Persisted: a test pins the names."""

    prefix: str
    group: str
    partitions: int

    def name(self, topic: ContractTopic) -> str:
        """The real name of a contract topic."""
        return f"{self.prefix}{topic.value}"

    @property
    def calls(self) -> str:
        return self.name(ContractTopic.CALL_RECORDS)

    @property
    def recharges(self) -> str:
        return self.name(ContractTopic.RECHARGES)

    @property
    def accounts(self) -> str:
        return self.name(ContractTopic.ACCOUNTS)

    @property
    def announcements(self) -> str:
        return self.name(ContractTopic.ANNOUNCEMENTS)

    @property
    def ticks(self) -> str:
        return self.name(ContractTopic.TICKS)

    @property
    def notifications(self) -> str:
        return self.name(ContractTopic.NOTIFICATIONS)

    @property
    def inbox_messages(self) -> str:
        return self.name(ContractTopic.INBOX_MESSAGES)

    @property
    def deliveries(self) -> str:
        return self.name(ContractTopic.DELIVERIES)

    @property
    def dead_letters(self) -> str:
        return self.name(ContractTopic.DEAD_LETTERS)

    @property
    def wechat_events(self) -> str:
        return self.name(ContractTopic.WECHAT_EVENTS)

    # Internal topics: the group's name is their prefix, as the contract says.

    @property
    def line_segments(self) -> str:
        """Calls of one poll, combined by line and re-keyed to it."""
        return f"{self.group}-line-segments"

    @property
    def fan_outs(self) -> str:
        """Announcements on their way to every account: a copy in each partition."""
        return f"{self.group}-fan-outs"

    @property
    def wechat_outbox(self) -> str:
        """Commands that the WeChat sender works off."""
        return f"{self.group}-wechat-outbox"

    @property
    def sms_outbox(self) -> str:
        """Commands that the SMS sender works off."""
        return f"{self.group}-sms-outbox"

    @property
    def wechat_bulk_outbox(self) -> str:
        """The same for what everybody is told: a fan-out waits, an alert doesn't."""
        return f"{self.group}-wechat-bulk-outbox"

    @property
    def sms_bulk_outbox(self) -> str:
        """The same for SMS."""
        return f"{self.group}-sms-bulk-outbox"

    @property
    def changelog(self) -> str:
        """All state of a partition, one record for each changed key, compacted."""
        return f"{self.group}-state-changelog"

    @property
    def handled_letters(self) -> str:
        """Which dead letters operators have dealt with, and how; compacted."""
        return f"{self.group}-handled-letters"

    def contract(self) -> list[Topic]:
        """The topics that other systems see."""
        return [
            Topic(
                self.name(topic),
                self.partitions,
                compacted=topic is ContractTopic.ACCOUNTS,
                max_message_bytes=_LONGEST_OF_OURS if topic in _WRITTEN else None,
            )
            for topic in ContractTopic
        ]

    def internal(self) -> list[Topic]:
        """The topics that only this group's workers read."""
        names = (
            self.line_segments,
            self.fan_outs,
            self.wechat_outbox,
            self.wechat_bulk_outbox,
            self.sms_outbox,
            self.sms_bulk_outbox,
            self.changelog,
            self.handled_letters,
        )
        compacted = (self.changelog, self.handled_letters)
        return [
            Topic(name, self.partitions, name in compacted, _LONGEST_OF_OURS, True)
            for name in names
        ]

    def queues(self) -> frozenset[str]:
        """The internal topics whose records are done with once the group has worked them off."""
        return frozenset(topic.name for topic in self.internal() if not topic.compacted)

    def outputs(self) -> tuple[str, ...]:
        """The topics that a worker's transactions write to, apart from the changelog."""
        return (
            *(self.name(topic) for topic in _WRITTEN),
            *(topic.name for topic in self.internal() if not topic.compacted),
        )

    def co_partitioned(self) -> list[str]:
        """The contract topics that must have the same number of partitions."""
        return [self.name(topic) for topic in CO_PARTITIONED]


def partition_of(key: bytes, partitions: int) -> int:
    """Return where the Java default partitioner puts a key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)

"""The topics: names, partitions, settings, and the partition of a key. No records, no clients."""

from dataclasses import dataclass
from enum import StrEnum

from aiokafka.partitioner import murmur2


class ContractTopic(StrEnum):
    """The topics of the contract, by contract name: others write some and read the rest."""

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


# A worker has the same partition numbers of all these: so all of an account's state is together.
CO_PARTITIONED = (
    ContractTopic.CALL_RECORDS,
    ContractTopic.RECHARGES,
    ContractTopic.ACCOUNTS,
    ContractTopic.TICKS,
    ContractTopic.NOTIFICATIONS,
)


# The topics that a worker's transactions write to.
_WRITTEN = (
    ContractTopic.NOTIFICATIONS,
    ContractTopic.INBOX_MESSAGES,
    ContractTopic.DELIVERIES,
    ContractTopic.DEAD_LETTERS,
)

# A dead letter holds a whole record and where it came from; a line segment holds all calls of one
# chunk on a line. Both may be longer than what others can publish (1 MiB, the broker's default).
_LONGEST_OF_OURS = 4 << 20

# Kafka deletes whole segments, but never the one being written: with its default of 1 GiB each
# partition of each internal topic would keep that much.
_QUEUE_SEGMENT_BYTES = 64 << 20
# The segment being written is never compacted, so it is as small as the longest record allows.
_CHANGELOG_SEGMENT_BYTES = _LONGEST_OF_OURS
# Compaction starts when this part of the log is new. So a restore reads at most 1 / (1 - 0.3) of
# the live records, plus one segment.
_CHANGELOG_DIRTY_RATIO = 0.3
# Each transaction's marker is kept as long as deletions are. At 20 a second the 24 hours that are
# usual are 140 MB a partition, many times what lives. Who reads a changelog from its beginning, or
# goes on in it, must be through within this time, or may miss a deletion.
CHANGELOG_DELETIONS_KEPT_SECONDS = 3600


@dataclass(frozen=True)
class Topic:
    """A topic as `dialwatch topics create` creates it."""

    name: str
    partitions: int
    compacted: bool = False
    max_message_bytes: int | None = None
    """None: the broker's default."""
    is_internal: bool = False
    """Only this group's workers read it, so Kafka must never delete its records by age."""

    def configs(self) -> dict[str, str]:
        """Return the settings with which it is created, by Kafka's names."""
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
    """All topic names of one installation. They are persisted: a test pins them."""

    prefix: str
    group: str
    partitions: int

    def name(self, topic: ContractTopic) -> str:
        """Return a contract topic's name in Kafka, with the installation's prefix."""
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
        """The calls of one chunk, combined by line, with the line as key."""
        return f"{self.group}-line-segments"

    @property
    def fan_outs(self) -> str:
        """Announcements on their way to all accounts: one copy in each partition."""
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
        """The same for announcements: these may wait, alerts may not."""
        return f"{self.group}-wechat-bulk-outbox"

    @property
    def sms_bulk_outbox(self) -> str:
        """The same for announcements by SMS."""
        return f"{self.group}-sms-bulk-outbox"

    @property
    def changelog(self) -> str:
        """The state of each partition number: one record for each changed key; compacted."""
        return f"{self.group}-state-changelog"

    @property
    def handled_letters(self) -> str:
        """The dead letters that operators have handled, and how; compacted."""
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
        """The internal topics whose records can be deleted once the group has worked them off."""
        return frozenset(topic.name for topic in self.internal() if not topic.compacted)

    def outputs(self) -> tuple[str, ...]:
        """The topics that a worker's transactions write to, without the changelog."""
        return (
            *(self.name(topic) for topic in _WRITTEN),
            *(topic.name for topic in self.internal() if not topic.compacted),
        )

    def co_partitioned(self) -> list[str]:
        """The contract topics that must have the same number of partitions."""
        return [self.name(topic) for topic in CO_PARTITIONED]


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default (Java) partitioner gives a key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)

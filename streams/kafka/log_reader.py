"""Logs read without the group: their ends and topic ids, restoring changelogs, deleting records."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import DeleteRecordsRequest

from streams.engine.state import State
from streams.engine.types import TP
from streams.kafka.producer import Destination, learn, within
from streams.kafka.protocol import DescribeTopics, read_topic_ids
from streams.kafka.transactions import OFFSETS_TOPIC, check_leaders

_STOP_SECONDS = 3.0
_DELETE_TIMEOUT_MS = 5_000


class ChangelogCutError(Exception):
    """A changelog lacks records, so that a state restored from it would be wrong."""

    def __init__(self, tp: TP, begin: int, end: int, position: int) -> None:
        known = f", and this worker knows it up to {position}" if position else ""
        super().__init__(
            f"{tp.topic}-{tp.partition} holds {begin} to {end}{known}: a part of what is "
            "remembered was deleted. Its topic must have cleanup.policy=compact alone. Stop all "
            f"workers and decide: `kafka-topics --delete --topic {tp.topic}`, and the next start "
            "says how to go on without; another DIALWATCH_GROUP begins anew, and sends what the "
            "topics still hold again"
        )


def check_changelogs(topic: str, states: Iterable[State], ends: Mapping[Destination, int]) -> None:
    """Raise ChangelogCutError where one of a changelog's new ends lies before what its state
    knows."""
    for state in states:
        end = ends.get((topic, state.partition), state.position)
        if end < state.position:
            raise ChangelogCutError(TP(topic, state.partition), 0, end, state.position)


class LogReader:
    """Reads partitions and their ends without joining the group. Open it before use."""

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._options = client_options
        self._ends: AIOKafkaConsumer | None = None
        self._records: AIOKafkaConsumer | None = None

    async def open(self, topics: Iterable[str]) -> None:
        """Connect, and fetch the topics' metadata. Nothing happens where that is done already.

        Raises KafkaConnectionError when Kafka is away.
        """
        if self._ends is None:
            self._ends = await self._connect("read_uncommitted")
        if self._records is None:
            self._records = await self._connect("read_committed")
        await learn(self._ends._client, [*topics, OFFSETS_TOPIC])

    async def close(self) -> None:
        """Disconnect."""
        consumers = self._ends, self._records
        self._ends = self._records = None  # first, so that a stopped consumer is never used
        for consumer in consumers:
            if consumer is not None:
                await within(_STOP_SECONDS, consumer.stop())

    @property
    def client(self) -> AIOKafkaClient:
        """The aiokafka client, for requests that no consumer makes. It knows the opened topics."""
        return self._open(self._ends)._client

    async def check_leaders(self, topics: Iterable[str]) -> None:
        """Raise KafkaError unless every partition of the topics has a leader now."""
        if not await self.client.force_metadata_update():
            raise KafkaConnectionError("no broker says where the partitions are")
        check_leaders(self.client, topics)

    async def lacks_replicas(self, tps: Iterable[TP]) -> bool:
        """Are some replicas of these partitions not in sync, or was nobody there to say so?"""
        client = self.client
        if not await client.force_metadata_update():
            return True
        known = [client.cluster._partitions.get(tp.topic, {}).get(tp.partition) for tp in tps]
        return any(one is None or len(one.isr) < len(one.replicas) for one in known)

    async def offsets_at(self, tps: Iterable[TP], timestamp: int) -> dict[TP, int]:
        """Return each partition's first offset with this timestamp (ms) or a later one; partitions
        without one are left out."""
        found = await self._open(self._ends).offsets_for_times(
            dict.fromkeys(_theirs(tps), timestamp)
        )
        return {TP(*tp): at.offset for tp, at in found.items() if at is not None}

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the logs' end offsets, with what is pending before them."""
        return _plain(await self._open(self._ends).end_offsets(_theirs(tps)))

    async def beginnings(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the logs' first offsets."""
        return _plain(await self._open(self._ends).beginning_offsets(_theirs(tps)))

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
        """See `topic_ids`."""
        return await topic_ids(self._open(self._ends)._client, topics)

    async def delete_before(self, offsets: Mapping[TP, int]) -> set[str]:
        """Delete the records before these offsets; return the topics where this user may not.
        Raises KafkaError at the end where another failed."""
        denied: set[str] = set()
        failed: KafkaError | None = None
        client = self._open(self._ends)._client
        by_leader: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for tp, offset in offsets.items():
            leader = client.cluster.leader_for_partition(TopicPartition(*tp))
            if leader is None or leader < 0:
                failed = LeaderNotAvailableError(f"{tp.topic}-{tp.partition}")
                continue
            by_leader.setdefault(leader, {}).setdefault(tp.topic, []).append((tp.partition, offset))
        for leader, topics in by_leader.items():
            request = DeleteRecordsRequest(topics.items(), _DELETE_TIMEOUT_MS)
            answer = await client.send(leader, request)
            for topic in answer.topics:
                for partition in topic[1]:
                    error = for_code(partition[2])
                    if error is TopicAuthorizationFailedError:
                        denied.add(topic[0])
                    elif error is not NoError:
                        failed = error()
        if failed is not None:
            raise failed
        return denied

    async def restore(
        self, changelogs: dict[TP, State], ends: dict[TP, int], on_progress: Callable[[float], None]
    ) -> int:
        """Read changelogs into states, from each state's position to the log's end in `ends`.

        Returns the number of records read. `on_progress` gets the part that is restored, 0 to 1,
        whenever records came. Waits for transactions that are pending before an end. May be
        cancelled: each state is then complete up to its position.

        Raises ChangelogCutError where a log doesn't begin at 0 or ends before a position.
        """
        begins = await self.beginnings(changelogs)
        for tp, state in changelogs.items():
            if begins[tp] > 0 or ends[tp] < state.position:
                raise ChangelogCutError(tp, begins[tp], ends[tp], state.position)
        behind = {tp: state for tp, state in changelogs.items() if state.position < ends[tp]}
        if not behind:
            on_progress(1.0)
            return 0
        consumer = self._open(self._records)
        consumer.assign(_theirs(behind))
        for tp, state in behind.items():
            consumer.seek(TopicPartition(*tp), state.position)
        whole = sum(ends[tp] - state.position for tp, state in behind.items())
        read = 0
        try:
            while behind:
                brought = await consumer.getmany(timeout_ms=100)
                for partition, records in brought.items():
                    tp = TP(*partition)
                    # A key without a value is deleted; the log may hold both records.
                    changelogs[tp].restore([(record.key, record.value) for record in records])
                    changelogs[tp].position = records[-1].offset + 1
                    read += len(records)
                for tp in list(behind):
                    position = await consumer.position(TopicPartition(*tp))
                    if position >= ends[tp]:
                        changelogs[tp].position = position
                        del behind[tp]
                left = sum(max(ends[tp] - state.position, 0) for tp, state in behind.items())
                if brought:
                    on_progress(1 - left / whole)
        finally:
            consumer.unsubscribe()
        on_progress(1.0)
        return read

    async def stable_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the offsets before which no transaction is pending."""
        return _plain(await self._open(self._records).end_offsets(_theirs(tps)))

    async def _connect(self, isolation_level: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._options,
            isolation_level=isolation_level,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=1 << 20,
            fetch_max_wait_ms=20,
        )
        try:
            await consumer.start()
        except BaseException:
            await within(_STOP_SECONDS, consumer.stop())
            raise
        return consumer

    @staticmethod
    def _open(consumer: AIOKafkaConsumer | None) -> AIOKafkaConsumer:
        if consumer is None:
            raise RuntimeError("the reader is not open")
        return consumer


async def topic_ids(client: AIOKafkaClient, topics: Iterable[str]) -> dict[str, bytes]:
    """Return the id of each topic that exists; a topic made anew has another id. An id is empty
    where the brokers are older than ids (before Kafka 2.8)."""
    wanted = set(topics)
    try:
        answer = await client.send(client.get_random_node(), DescribeTopics(wanted))
    except NotImplementedError:  # raised by aiokafka where brokers lack this version
        return dict.fromkeys(wanted, b"")
    return read_topic_ids(answer)


def _theirs(tps: Iterable[TP]) -> list[TopicPartition]:
    return [TopicPartition(*tp) for tp in tps]


def _plain(offsets: dict[TopicPartition, int]) -> dict[TP, int]:
    return {TP(*tp): offset for tp, offset in offsets.items()}

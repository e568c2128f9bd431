"""Reading logs apart from the group: their ends, and changelogs into states."""

from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from streams import metrics
from streams.engine.state import State
from streams.engine.types import TP
from streams.kafka.producer import learn, within
from streams.kafka.transactions import OFFSETS_TOPIC, check_leaders

_STOP_S = 3.0


class ChangelogCutError(Exception):
    """A changelog isn't whole (any more): what would be restored from it is wrong."""


class LogReader:
    """Reads partitions and their ends apart from the group. Open it once, use it often."""

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._options = client_options
        self._ends: AIOKafkaConsumer | None = None
        self._records: AIOKafkaConsumer | None = None

    async def open(self, topics: Iterable[str]) -> None:
        """Connect, and learn where the topics' partitions are.

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
        self._ends = self._records = None  # whatever ends this call: what is stopped is not used
        for consumer in consumers:
            if consumer is not None:
                await within(_STOP_S, consumer.stop())

    @property
    def client(self) -> AIOKafkaClient:
        """The connections, for questions that no consumer asks. It knows the opened topics."""
        return self._open(self._ends)._client

    async def check_leaders(self, topics: Iterable[str]) -> None:
        """Raise KafkaError unless all partitions of topics have leaders now."""
        if not await self.client.force_metadata_update():
            raise KafkaConnectionError("no broker says where the partitions are")
        check_leaders(self.client, topics)

    async def offsets_at(self, tps: Iterable[TP], timestamp: int) -> dict[TP, int]:
        """Return the first offsets from a time on (ms since the epoch), where there are any."""
        found = await self._open(self._ends).offsets_for_times(
            dict.fromkeys(_theirs(tps), timestamp)
        )
        return {TP(*tp): at.offset for tp, at in found.items() if at is not None}

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the logs' ends, pending transactions included."""
        return _plain(await self._open(self._ends).end_offsets(_theirs(tps)))

    async def beginnings(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the logs' first offsets."""
        return _plain(await self._open(self._ends).beginning_offsets(_theirs(tps)))

    async def restore(
        self, changelogs: dict[TP, State], ends: dict[TP, int], on_progress: Callable[[], None]
    ) -> int:
        """Read changelogs into the states, from each one's position to its end.

        Returns how many records were read. Waits for transactions that are pending before an
        end. May be cancelled: a state then is complete up to its position.

        Raises ChangelogCutError where the log doesn't begin at 0 or ends before a position.
        """
        begins = await self.beginnings(changelogs)
        for tp, state in changelogs.items():
            if begins[tp] > 0 or ends[tp] < state.position:
                raise ChangelogCutError(
                    f"{tp.topic}-{tp.partition} holds {begins[tp]} to {ends[tp]}, and this worker "
                    f"knows it up to {state.position}: a part of what is remembered was deleted. "
                    "The topic must have cleanup.policy=compact alone. Another DIALWATCH_GROUP "
                    "begins anew, and sends what the topics still hold again"
                )
        behind = {tp: state for tp, state in changelogs.items() if state.position < ends[tp]}
        if not behind:
            metrics.RESTORED.set(1)
            return 0
        consumer = self._open(self._records)
        consumer.assign(_theirs(behind))
        for tp, state in behind.items():
            consumer.seek(TopicPartition(*tp), state.position)
        whole = sum(ends[tp] - state.position for tp, state in behind.items())
        read = 0
        try:
            while behind:
                for partition, records in (await consumer.getmany(timeout_ms=100)).items():
                    tp = TP(*partition)
                    # Keys without a value are deleted; the log may hold both.
                    changelogs[tp].restore([(record.key, record.value) for record in records])
                    changelogs[tp].position = records[-1].offset + 1
                    read += len(records)
                    on_progress()
                for tp in list(behind):
                    position = await consumer.position(TopicPartition(*tp))
                    if position >= ends[tp]:
                        changelogs[tp].position = position
                        del behind[tp]
                left = sum(max(ends[tp] - state.position, 0) for tp, state in behind.items())
                metrics.RESTORED.set(1 - left / whole)
        finally:
            consumer.unsubscribe()
        metrics.RESTORED.set(1)
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
            await within(_STOP_S, consumer.stop())
            raise
        return consumer

    @staticmethod
    def _open(consumer: AIOKafkaConsumer | None) -> AIOKafkaConsumer:
        if consumer is None:
            raise RuntimeError("the reader is not open")
        return consumer


def _theirs(tps: Iterable[TP]) -> list[TopicPartition]:
    return [TopicPartition(*tp) for tp in tps]


def _plain(offsets: dict[TopicPartition, int]) -> dict[TP, int]:
    return {TP(*tp): offset for tp, offset in offsets.items()}

"""Reading topics for a replay: without a group, up to the ends that they have at its start.

All ends are of one moment, in every process: a worker that goes on meanwhile would make what is
read last younger than what was read first.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.analysis.loop_thread import LoopThread
from app.analysis.partition_logs import RUNS_UNKNOWN, TOLD_UNKNOWN, PartitionLog
from app.errors import KafkaAwayError
from app.kafka.admin import open_admin
from app.settings import Settings
from streams.engine.types import TP
from streams.kafka import fetching
from streams.kafka.log_reader import topic_ids

CONNECT_SECONDS = 15.0
_POLL_MS = 20
_FETCH_BYTES = 4 << 20


class KafkaLogs:
    """An installation's topics as `Logs`. Blocks, also where an event loop runs: it has one of its
    own, in a thread of its own."""

    def __init__(self, settings: Settings, ends: Mapping[TP, int] | None = None) -> None:
        """Connect. `ends`: what `fix_ends` returned in another process. Raises KafkaAwayError."""
        self._settings = settings
        self._thread = LoopThread("kafka-logs")
        self._consumer: Any = None
        self._fixed: dict[TP, int] = dict(ends or {})
        self._ends: dict[TP, int] = {}
        try:
            self._counts: dict[str, int] = self._run(self._partition_counts())
            self._run(self._open())
        except BaseException:  # Ctrl-C too: a notebook goes on
            self.close()
            raise

    def counts(self) -> dict[str, int]:
        return self._counts

    def has(self, topic: str) -> bool:
        return topic in self._counts

    def topic_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
        """See `streams.kafka.log_reader.topic_ids`."""
        return dict(self._run(topic_ids(self._consumer._client, topics)))

    def fix_ends(self, topics: Iterable[str]) -> dict[TP, int]:
        """Read these topics up to the ends that they have now, whenever it begins; return these."""
        tps = [TP(topic, n) for topic in topics for n in range(self._counts.get(topic, 0))]
        self._fixed = {tp: end for tp, (_, end) in self.bounds(tps).items()}
        return self._fixed

    def begin(self, logs: Iterable[PartitionLog], starts: Mapping[TP, int] | None = None) -> int:
        """See `Logs`; the ends are those of `fix_ends`, where it was called. `starts`: the first
        offsets to read, where these aren't the logs' first."""
        by_tp = {TopicPartition(*log.tp): log for log in logs}
        return int(self._run(self._begin(by_tp, starts or {})))

    def bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """Return the first and the end offset of logs."""
        return dict(self._run(self._bounds([TopicPartition(*tp) for tp in tps])))

    def offsets_at(self, tps: Iterable[TP], timestamp: int) -> dict[TP, int | None]:
        """Return each log's first offset with such a timestamp (ms) or a later one; None: none."""
        return dict(self._run(self._offsets_at(list(tps), timestamp)))

    def missing(self) -> list[str]:
        """See `Logs`. Leaves accounts out: in a compacted topic missing records are normal."""
        topics = self._settings.topics
        lacking = dict.fromkeys(
            (topics.calls, topics.recharges, topics.ticks, topics.announcements), RUNS_UNKNOWN
        )
        if any(tp.topic == topics.notifications for tp in self._ends):
            lacking[topics.notifications] = f"{TOLD_UNKNOWN}; --since leaves that out"
        said = []
        for topic, what in lacking.items():
            bounds = self.bounds(TP(topic, number) for number in range(self._counts.get(topic, 0)))
            late = sorted(tp.partition for tp, (begin, _) in bounds.items() if begin)
            if late:
                said.append(
                    f"the beginning of {topic} was deleted (partitions {', '.join(map(str, late))})"
                    f": {what}"
                )
        return said

    def fill(self, hungry: list[PartitionLog]) -> None:
        if hungry:
            self._run(self._fill({TopicPartition(*log.tp): log for log in hungry}))

    def close(self) -> None:
        try:
            if self._consumer is not None:
                self._thread.run(self._consumer.stop())
        finally:
            self._thread.close()
            fetching.uninstall()  # a notebook may use aiokafka too

    def _run(self, work: Any) -> Any:
        try:
            return self._thread.run(work)
        except KafkaError as error:
            raise KafkaAwayError(
                f"Kafka went away meanwhile ({type(error).__name__}): run it again"
            ) from None

    async def _partition_counts(self) -> dict[str, int]:
        async with open_admin(self._settings, timeout_s=CONNECT_SECONDS) as admin:
            return await admin.partition_counts()

    async def _open(self) -> None:
        fetching.install()
        self._consumer = AIOKafkaConsumer(
            **self._settings.kafka_client_options(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_bytes=16 * _FETCH_BYTES,
            fetch_max_wait_ms=_POLL_MS,
            check_crcs=False,
        )
        await self._consumer.start()

    async def _bounds(self, tps: list[TopicPartition]) -> dict[TP, tuple[int, int]]:
        if not tps:
            return {}
        begins = await self._consumer.beginning_offsets(tps)
        ends = await self._consumer.end_offsets(tps)
        return {TP(*tp): (begins[tp], ends[tp]) for tp in tps}

    async def _offsets_at(self, tps: list[TP], timestamp: int) -> dict[TP, int | None]:
        found = await self._consumer.offsets_for_times(
            {TopicPartition(*tp): timestamp for tp in tps}
        )
        return {TP(*tp): None if at is None else at.offset for tp, at in found.items()}

    async def _begin(
        self, logs: dict[TopicPartition, PartitionLog], starts: Mapping[TP, int]
    ) -> int:
        consumer = self._consumer
        consumer.assign(list(logs))
        bounds = await self._bounds(list(logs))
        records = 0
        for tp, log in logs.items():
            begin, end = bounds[log.tp]
            end = self._fixed.get(log.tp, end)
            start = max(starts.get(log.tp, begin), begin)
            self._ends[log.tp] = end
            log.is_ended = start >= end
            consumer.seek(tp, start)
            records += max(end - start, 0)
        return records

    async def _fill(self, logs: dict[TopicPartition, PartitionLog]) -> None:
        consumer = self._consumer
        while logs:
            for tp, read in (await consumer.getmany(*logs, timeout_ms=_POLL_MS)).items():
                end = self._ends[TP(*tp)]
                records = read
                if read[-1].offset >= end:
                    records = [one for one in read if one.offset < end]
                if records:
                    logs[tp].add(records)
            for tp, log in list(logs.items()):
                # A marker may follow the last record: only the position shows that.
                log.is_ended = await consumer.position(tp) >= self._ends[log.tp]
                if not log.is_hungry:
                    del logs[tp]

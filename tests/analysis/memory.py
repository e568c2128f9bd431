"""Topics in memory, as a replay reads them; and replays of them in this process."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from zoneinfo import ZoneInfo

from agents.rules import Rules
from app.analysis.jobs import slices_of
from app.analysis.partition_logs import FileRecord, PartitionLog
from app.analysis.refold import LineWatch, Question, Watch
from app.analysis.variants import Variant
from streams.engine.types import Header
from streams.topics import ContractTopic, Topics
from tests.test_histories import PARTITIONS, Dated

TOPICS = Topics("", "g", PARTITIONS)
ZONE = ZoneInfo("Asia/Shanghai")


class MemoryLogs:
    """Hands over so many records of a log at once."""

    def __init__(
        self,
        events: Iterable[Dated],
        *,
        at_once: int = 100,
        at_ms: int | None = None,
        headers: Mapping[int, Sequence[Header]] | None = None,
    ) -> None:
        """`at_ms`: when all records came; None: when they happened. `headers`: of which event."""
        self._at_once = at_once
        self._records: defaultdict[tuple[str, int], list[FileRecord]] = defaultdict(list)
        self._next: dict[tuple[str, int], int] = {}
        for number, (topic, key, value, partition, happened) in enumerate(events):
            log = self._records[topic, partition]
            raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
            at = at_ms
            if at is None:  # clocks differ: every ninth record comes with a time from before
                at = int(happened.timestamp() * 1000) - (1700 if number % 9 == 0 else 0)
            name = None if key is None else key.encode()
            log.append(FileRecord(len(log), at, name, raw, tuple((headers or {}).get(number, ()))))

    def counts(self) -> dict[str, int]:
        return {topic.value: PARTITIONS for topic in ContractTopic}

    def has(self, topic: str) -> bool:
        return topic in self.counts()

    def begin(self, logs: Iterable[PartitionLog]) -> int:
        for log in logs:
            self._next[log.tp] = 0
            log.is_ended = not self._records[log.tp]
        return 0

    def fill(self, hungry: list[PartitionLog]) -> None:
        for log in hungry:
            begin = self._next[log.tp]
            end = self._next[log.tp] = begin + self._at_once
            log.is_ended = end >= len(self._records[log.tp])
            log.add(self._records[log.tp][begin:end])

    def missing(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def replayed(
    logs: MemoryLogs,
    rules: Rules,
    variants: Sequence[Variant],
    shares: Sequence[Sequence[int]] = (range(PARTITIONS),),
    *,
    has_lengths: bool = False,
) -> tuple[list[list[bytes]], LineWatch]:
    """Return the commands of each variant in order, and what else was seen. `shares`: of the
    partitions, each folded apart."""
    question = Question(rules, TOPICS, tuple(variants), has_lengths=has_lengths)
    seen = LineWatch(question)
    told: list[list[bytes]] = [[] for _ in variants]
    if len(shares) == 1:
        slices = slices_of(question, logs, lambda: logs, 1)
    else:
        streams = [
            Watch(question, logs, share, is_first=number == 0).slices()
            for number, share in enumerate(shares)
        ]
        # one log can't be read twice at once: one share after another
        slices = merge(*map(list, streams), key=lambda one: (one.key, one.place))
    for number, command in seen.told(slices):
        for variant, commands in enumerate(told):
            if number in (-1, variant):
                commands.append(command)
    return told, seen

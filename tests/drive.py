"""All folds in memory: records in, commands and dead letters out. No Kafka."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from agents.register import watching
from agents.rules import Rules
from streams.engine.memory import MemoryEngine, MemoryRecord
from streams.engine.types import TP, Output
from streams.topics import Topics
from tests.installation import Published

PARTITIONS = 1


class Drive:
    """One installation in memory, with one partition. Folds records in the order given."""

    def __init__(self, **rules: Any) -> None:
        self.commands: list[dict[str, Any]] = []
        self.told: list[Output] = []
        """The commands, as published."""
        self.letters: list[Output] = []
        """The dead letters."""
        topics = Topics("", "g", PARTITIONS)
        self.engine = MemoryEngine(
            watching(Rules(**({"zone": ZoneInfo("Asia/Shanghai")} | rules)), topics),
            PARTITIONS,
            self._keep,
        )
        self._topics = topics
        self._offset = 0

    def _keep(self, _: TP, output: Output) -> None:
        if output.topic == self._topics.notifications:
            self.told.append(output)
            self.commands.append(json.loads(output.value or b""))
        else:
            self.letters.append(output)

    @property
    def dead_letters(self) -> int:
        return len(self.letters)

    def reasons(self) -> list[str]:
        """The reasons of the dead letters."""
        return [dict(one.headers)["dialwatch.reason"].decode() for one in self.letters]

    def take(self, records: Iterable[Published], timestamp: int = -1) -> list[dict[str, Any]]:
        """Fold records, and the records that they cause; return the commands that resulted.

        `timestamp`: the records' timestamp (ms); -1: none.
        """
        before = len(self.commands)
        self._fold(records, self.engine.fold, timestamp)
        return self.commands[before:]

    def take_at_once(self, records: Sequence[Published]) -> list[MemoryRecord]:
        """Fold records of one topic as one chunk, and the records that they cause; return those
        that were emitted into the group's own topics."""
        self.engine.fold_one(TP(records[0].topic, 0), self._records(records))
        said = [record for _, record in self.engine.waiting]
        while self.engine.waiting:
            self.engine.fold_next()
        return said

    def restart(self) -> None:
        """Commit, and drop what was only derived from the state."""
        self.engine.end_cycle()
        for state in self.engine.states:
            state.discard()

    def defer(self, records: Iterable[Published]) -> None:
        """Fold records; records that they cause in the group's own topics wait."""
        self._fold(records, self.engine.fold_one)

    def deferred(self) -> int:
        """The number of records of the group's own topics that wait."""
        return len(self.engine.waiting)

    def go_on(self) -> None:
        """Fold the record that waits longest."""
        self.engine.fold_next()

    def _fold(
        self,
        records: Iterable[Published],
        fold: Callable[[TP, list[Any]], None],
        timestamp: int = -1,
    ) -> None:
        for one in records:
            fold(TP(one.topic, 0), self._records([one], timestamp))

    def _records(self, records: Iterable[Published], timestamp: int = -1) -> list[MemoryRecord]:
        made = []
        for _, key, value, _ in records:
            raw = value
            if value is not None and not isinstance(value, bytes):
                raw = json.dumps(value).encode()
            made.append(
                MemoryRecord(
                    self._offset, timestamp, key.encode() if isinstance(key, str) else key, raw
                )
            )
            self._offset += 1
        return made

    def keys(self) -> int:
        """The number of values in the state."""
        self.engine.end_cycle()
        (state,) = self.engine.states
        return len(state)

"""All folds in memory: records in, commands and dead letters out. No Kafka."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from agents.rules import Rules
from app.commands.replay import Caused, Refold
from streams.engine.types import TP, Output
from streams.topics import Topics
from tests.installation import Published

PARTITIONS = 1


class _Refold(Refold):
    """Keeps what goes out to topics that a replay doesn't print."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.others: list[Output] = []
        self.told: list[Output] = []

    def emit(self, output: Output) -> None:
        if output.topic != self._topics.notifications:
            self.others.append(output)
        else:
            self.told.append(output)
        super().emit(output)


class Drive:
    """One installation with one partition. Records are folded in the order they are given."""

    def __init__(self, **rules: Any) -> None:
        self.commands: list[dict[str, Any]] = []
        self.refold = _Refold(
            Rules(**({"zone": ZoneInfo("Asia/Shanghai")} | rules)),
            Topics("", "g", PARTITIONS),
            lambda raw: self.commands.append(json.loads(raw)),
        )
        self._offset = 0

    @property
    def dead_letters(self) -> int:
        return self.refold.invalid

    @property
    def letters(self) -> list[Output]:
        """The dead letters."""
        return [one for one in self.refold.others if one.topic == "dead-letters"]

    def reasons(self) -> list[str]:
        """Why the dead letters are dead."""
        return [dict(one.headers)["dialwatch.reason"].decode() for one in self.letters]

    def segments(self) -> list[Output]:
        """What the polls said of lines."""
        return [one for one in self.refold.others if one.topic == "g-line-segments"]

    def take(self, records: Iterable[Published], timestamp: int = -1) -> list[dict[str, Any]]:
        """Fold records and what they cause; return the commands that came out of these.

        `timestamp`: of the records (ms), -1: they have none.
        """
        before = len(self.commands)
        self._fold(records, self.refold.fold, timestamp)
        return self.commands[before:]

    def take_at_once(self, records: Sequence[Published]) -> None:
        """Fold records of one topic as one poll, and what they cause."""
        polled: list[Any] = []
        self._fold(records, lambda _, read: polled.extend(read))
        self.refold.fold(TP(records[0].topic, 0), polled)

    def restart(self) -> None:
        """Commit, and forget what was only worked out from the state."""
        for state in self.refold.states:
            state.seal()
            state.apply()
            state.discard()

    def defer(self, records: Iterable[Published]) -> None:
        """Fold records; what they cause in the group's own topics waits."""
        self._fold(records, self.refold.fold_one)

    def deferred(self) -> int:
        """How many records of the group's own topics wait."""
        return len(self.refold.waiting)

    def go_on(self) -> None:
        """Fold the next record that waits."""
        caused, record = self.refold.waiting.popleft()
        self.refold.fold_one(caused, [record])

    def _fold(
        self,
        records: Iterable[Published],
        fold: Callable[[TP, list[Any]], None],
        timestamp: int = -1,
    ) -> None:
        for topic, key, value, _ in records:
            raw = value
            if value is not None and not isinstance(value, bytes):
                raw = json.dumps(value).encode()
            record = Caused(
                self._offset, timestamp, key.encode() if isinstance(key, str) else key, raw
            )
            self._offset += 1
            fold(TP(topic, 0), [record])

    def keys(self) -> int:
        """How many values the state holds."""
        (state,) = self.refold.states
        state.seal()
        state.apply()
        return len(state)

"""Folding all partitions again, in an order that depends on the records only.

1. `Watch` folds its partitions, each in the worker's order (`streams/engine/order.py`), in slices
   of time. For each slice it yields the results: commands, and segments of lines. Records that lie
   in an account's partition of before `topics expand` are folded in the account's present one,
   which gets the ticks of before, too.
2. `LineWatch` takes the slices of all partitions in order and folds the lines, whose calls come
   from several partitions.

Slices are cut by timestamps and counts, never by what a poll brought. So the same commands come out
in the same order, however records are read and by however many processes (`app/analysis/jobs.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from agents.register import watching
from agents.rules import Rules
from app.analysis.partition_logs import Logs, PartitionLog
from app.analysis.variants import NEVER, AccountRuns, Lengths, Variant
from app.errors import CommandError
from streams.engine.memory import MemoryEngine, MemoryRecord
from streams.engine.order import FOREVER, next_of
from streams.engine.state import State
from streams.engine.types import TP, Output
from streams.records import Call
from streams.topics import Topics
from tables.lines import LineSegment
from tables.state_tables import CLOCKS, CUSTOMERS

SLICE_MS = 1000
# A slice is one second, but also ends after so many records of a partition.
_SLICE_RECORDS = 4096
ALL = -1
"""In place of a variant's number: the same for every variant."""

Key = tuple[int, int]
_END: Key = (FOREVER, 0)
_decode_segment = msgspec.msgpack.Decoder(LineSegment).decode


@dataclass(frozen=True)
class Question:
    """What a replay is to find out."""

    rules: Rules
    topics: Topics
    variants: tuple[Variant, ...]
    has_lengths: bool = False
    """Are the lengths of runs wanted?"""
    has_places: bool = False
    """Are the partitions of each line's calls wanted, and when each account changed last?"""

    @property
    def windows(self) -> list[float]:
        """The different windows of the variants, in hours."""
        return list(dict.fromkeys(variant.window_hours for variant in self.variants))


class Slice(NamedTuple):
    """The results of one slice of one partition. Is pickled."""

    key: Key
    """The second, and the part of it. The slices of all partitions are in this order."""
    place: tuple[int, int]
    """The order within one key: partitions of fan-outs, then partitions of calls."""
    told: Sequence[tuple[int, bytes]] = ()
    """Commands, each with a variant's number or `ALL`."""
    segments: Sequence[tuple[bytes, bytes]] = ()
    """Line segments: key and value."""
    ticks: Sequence[tuple[int, bytes]] = ()
    """Ticks: the record's timestamp (ms) and its value."""
    records: int = 0
    invalid: int = 0
    lengths: Any = None
    """In the last slice only: the lengths of accounts' runs."""
    changed: Any = None
    """In the last slice only: the timestamp (ms) of each account's record."""


class _Part:
    """The progress of one partition."""

    def __init__(self, place: tuple[int, int], logs: list[PartitionLog]) -> None:
        self.place = place
        self.logs = logs
        self.key: Key = (-FOREVER, 0)
        """The slice of the next record."""
        self.head: tuple[PartitionLog, int] | None = None
        self.records = 0
        """The number of records so far in this second."""
        self.begin_slice()

    def begin_slice(self) -> None:
        self.told: list[tuple[int, bytes]] = []
        self.segments: list[tuple[bytes, bytes]] = []
        self.ticks: list[tuple[int, bytes]] = []
        self.folded = self.invalid = 0

    def look(self) -> None:
        """Find the log whose turn it is, and the slice of its record. No log may be hungry."""
        head = self.head = next_of(self.logs)
        if head is None or head[0].at is None:
            self.key = _END
            return
        second = head[0].at // SLICE_MS
        if second > self.key[0]:
            self.records = 0
            self.key = (second, 0)
        else:
            self.key = (self.key[0], self.records // _SLICE_RECORDS)

    def take(self, ticks: str) -> tuple[PartitionLog, list[Any]]:
        """Take the next records of this slice; of the topic `ticks` one at a time."""
        assert self.head is not None  # noqa: S101 (whoever takes has looked)
        log, until = self.head
        most = 1 if log.tp.topic == ticks else _SLICE_RECORDS - self.records % _SLICE_RECORDS
        records = log.take(most, min(until, self.key[0] * SLICE_MS + SLICE_MS - 1))
        self.records += len(records)
        self.folded += len(records)
        return log, records

    @property
    def is_hungry(self) -> bool:
        return any(log.is_hungry for log in self.logs)


class Watch:
    """Folds some partitions, or all."""

    def __init__(
        self,
        question: Question,
        reading: Logs,
        partitions: Iterable[int],
        *,
        is_first: bool = True,
        added: Mapping[int, int] | None = None,
    ) -> None:
        """`is_first`: is this the one, of several processes, that reports invalid announcements?
        `added`: see `added_partitions`; where there are any, `partitions` must be all."""
        self._topics = question.topics
        self._reading = reading
        self._partitions = sorted(partitions)
        self._is_first = is_first
        self._runs: AccountRuns | None = None
        self._lengths = Lengths(question.windows) if question.has_lengths else None
        self._changed: dict[bytes, int] | None = {} if question.has_places else None
        (only, *others) = question.variants
        rules = only.rules(question.rules)
        if others:
            self._runs = AccountRuns(question.rules, question.variants, self._tell)
            rules = Variant(NEVER, only.window_hours).rules(question.rules)
        on_counted = self._count if others or self._lengths else None
        self._sources = {one.topic: one for one in watching(rules, self._topics, on_counted)}
        segments = self._sources.pop(self._topics.line_segments)
        self._segments, self._fan_outs = segments.topic, self._topics.fan_outs
        self._notifications = self._topics.notifications
        self._engine = MemoryEngine(
            self._sources.values(), self._topics.partitions, self._on_output
        )
        self._everyone: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        """The commands of announcements, by partition of the account."""
        self._part = _Part((0, 0), [])
        self._added = {number: begins // SLICE_MS for number, begins in (added or {}).items()}
        """The partitions that were added later, and the second in which their own ticks begin."""

    def slices(self) -> Iterator[Slice]:
        """Fold everything; yield the slices in order."""
        accounts = self._part
        self._fold_accounts()
        topics = self._topics
        parts = [
            _Part((1, number), [
                self._log(topic, number) for topic in (topics.recharges, topics.calls, topics.ticks)
            ])
            for number in self._partitions
        ]  # fmt: skip
        counts = self._reading.counts()
        everyone = _Part(
            (0, 0),
            [self._log(topics.announcements, n) for n in range(counts[topics.announcements])],
        )
        parts.insert(0, everyone)
        logs = [log for part in parts for log in part.logs]
        self._reading.begin(logs)
        self._reading.fill([log for log in logs if log.is_hungry])
        for part in parts:
            part.look()
        while True:
            key = min(part.key for part in parts)
            if key == _END:
                break
            due = [part for part in parts if part.key == key]
            while True:
                hungry: list[PartitionLog] = []
                for part in due:
                    if not part.is_hungry:
                        self._fold_slice(part, key)
                    hungry += [log for log in part.logs if log.is_hungry]
                if not hungry:
                    break
                self._reading.fill(hungry)
                for part in due:
                    part.look()
            for part in due:
                yield from self._said(part, key, everyone)
        yield Slice(
            _END,
            (1, self._partitions[0] if self._partitions else 0),
            lengths=self._lengths.end() if self._lengths is not None else None,
            changed=self._changed,
            invalid=accounts.invalid,
        )

    def _log(self, topic: str, number: int) -> PartitionLog:
        return PartitionLog(TP(topic, number), self._sources[topic])

    def _fold_accounts(self) -> None:
        """Fold the present records of all accounts, before anything else."""
        logs = [self._log(self._topics.accounts, number) for number in self._partitions]
        self._reading.begin(logs)
        while True:
            self._reading.fill([log for log in logs if log.is_hungry])
            ready = [log for log in logs if log.at is not None]
            if not ready:
                return
            for log in ready:
                records = log.take(1 << 30, FOREVER)
                if self._changed is not None:
                    self._changed.update((one.key, one.timestamp) for one in records)
                self._engine.fold(log.tp, records)

    def _fold_slice(self, part: _Part, key: Key) -> None:
        """Fold the records of a slice of one partition that have been read."""
        self._part = part
        ticks = self._topics.ticks
        while part.key == key:
            log, records = part.take(ticks)
            if log.tp.topic == ticks:
                self._fold_ticks(log.tp, records)
                if log.tp.partition == 0:
                    for number, begins in self._added.items():
                        if key[0] < begins:
                            self._fold_ticks(TP(ticks, number), records)
                part.ticks += [(one.timestamp, one.value) for one in records if one.value]
            else:
                for home, some in self._at_home(log.tp, records):
                    self._engine.fold(home, some)
            if part.is_hungry:
                return
            part.look()

    def _fold_ticks(self, tp: TP, records: list[Any]) -> None:
        self._engine.fold(tp, records)
        if self._runs is not None:
            clock = self._engine.states[tp.partition].peek(CLOCKS, b"")
            if clock is not None and clock.tick:
                self._runs.on_tick(tp.partition, clock.tick)

    def _at_home(self, tp: TP, records: list[Any]) -> Iterable[tuple[TP, list[Any]]]:
        """Yield records grouped by the partition in whose state they are folded."""
        topics, place = self._topics, self._engine.place
        keys = {one.key for one in records}
        if tp.topic == topics.announcements or not any(
            key is not None and place(key) != tp.partition for key in keys
        ):
            return [(tp, records)]
        homes: dict[TP, list[Any]] = {}
        for one in records:
            homes.setdefault(self._home(tp, one.key), []).append(one)
        return homes.items()

    def _home(self, tp: TP, key: bytes | None) -> TP:
        """Return the partition in whose state a record is folded: the present one of its account.
        But where the account is known in the record's own partition, it is that one, because its
        publisher uses another partitioner."""
        home = tp.partition if key is None else self._engine.place(key)
        if home == tp.partition or self._engine.states[tp.partition].peek(CUSTOMERS, key or b""):
            return tp
        if home not in self._partitions:
            raise CommandError(
                f"accounts of {tp.topic} lie in several partitions, as after `dialwatch topics "
                "expand`: run it again with --jobs 1"
            )
        return TP(tp.topic, home)

    def _said(self, part: _Part, key: Key, everyone: _Part) -> Iterator[Slice]:
        if part is everyone:
            for number in sorted(self._everyone):
                yield Slice(key, (0, number), self._everyone[number])
            self._everyone.clear()
        invalid = part.invalid if part is not everyone or self._is_first else 0
        records = part.folded if part is not everyone or self._is_first else 0
        yield Slice(key, part.place, part.told, part.segments, part.ticks, records, invalid)
        part.begin_slice()

    def _on_output(self, at: TP, output: Output) -> None:
        value = output.value or b""
        if output.topic == self._segments:
            self._part.segments.append((output.key or b"", value))
        elif output.topic == self._notifications:
            if at.topic == self._fan_outs:
                self._everyone[at.partition].append((ALL, value))
            else:
                self._part.told.append((ALL, value))
        else:
            self._part.invalid += 1

    def _tell(self, variant: int, command: bytes) -> None:
        self._part.told.append((variant, command))

    def _count(self, state: State, key: bytes, call: Call, ended: int, clock: int) -> None:
        if self._runs is not None:
            self._runs.count(state, key, call, ended, clock)
        if self._lengths is not None:
            self._lengths.count(key, ended, is_in_run=call.result == "F")


class LineWatch:
    """Folds the lines of all partitions for each variant, and sums up all slices."""

    def __init__(self, question: Question) -> None:
        self._topics = question.topics
        self._told: list[tuple[int, bytes]] = []
        self.records = 0
        self.invalid = 0
        self.begun: int | None = None
        """The timestamp (ms) of the first record, without accounts; None: there is none."""
        self.account_lengths: dict[float, Any] = {}
        self.line_lengths = Lengths(question.windows) if question.has_lengths else None
        self.changed: dict[bytes, int] = {}
        """The timestamp (ms) of each account's record, where `has_places`."""
        self.line_places: dict[bytes, set[int]] | None = {} if question.has_places else None
        """The partitions of each line's calls; None without `has_places`."""
        self._engines = [
            self._engine(number, variant.rules(question.rules))
            for number, variant in enumerate(question.variants)
        ]

    def _engine(self, number: int, rules: Rules) -> MemoryEngine:
        mine = {self._topics.line_segments, self._topics.ticks}
        sources = [one for one in watching(rules, self._topics) if one.topic in mine]

        def on_output(_: TP, output: Output) -> None:
            if output.topic == self._topics.notifications:
                self._told.append((number, output.value or b""))

        return MemoryEngine(sources, self._topics.partitions, on_output)

    def told(self, slices: Iterable[Slice]) -> Iterator[tuple[int, bytes]]:
        """Yield all commands in order, each with the variant's number or `ALL`."""
        segments_topic, ticks_topic = self._topics.line_segments, self._topics.ticks
        for _, group in groupby(slices, key=lambda one: one.key):
            segments: defaultdict[int, list[Any]] = defaultdict(list)
            ticks: list[tuple[int, int, bytes]] = []
            for one in group:
                yield from one.told
                for key, value in one.segments:
                    place = self._engines[0].place(key)
                    segments[place].append(MemoryRecord(0, 0, key, value))
                    if self.line_lengths is not None or self.line_places is not None:
                        self._look(one.place[1], key, value)
                ticks += [(one.place[1], *tick) for tick in one.ticks]
                self._add_up(one)
            for engine in self._engines:
                for place in sorted(segments):
                    # Lines in the order of their names: which is mentioned first depends on where
                    # a read of the slice ended. Each line's own segments stay in their order.
                    by_line = sorted(segments[place], key=lambda one: one.key)
                    engine.fold(TP(segments_topic, place), by_line)
                for partition, at, tick in ticks:
                    engine.fold(TP(ticks_topic, partition), [MemoryRecord(0, at, None, tick)])
            yield from self._told
            self._told.clear()

    def _look(self, partition: int, key: bytes, value: bytes) -> None:
        if self.line_lengths is not None:
            self.line_lengths.count_line(key, _decode_segment(value).calls)
        if self.line_places is not None:
            self.line_places.setdefault(key, set()).add(partition)

    def _add_up(self, one: Slice) -> None:
        if self.begun is None and one.records:
            self.begun = one.key[0] * SLICE_MS
        self.records += one.records
        self.invalid += one.invalid
        if one.lengths is not None:
            for hours, seen in one.lengths.items():
                if hours in self.account_lengths:
                    self.account_lengths[hours].update(seen)
                else:
                    self.account_lengths[hours] = seen
        if one.changed is not None:
            self.changed.update(one.changed)

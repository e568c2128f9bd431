"""One replay from beginning to end: arguments, logs to read, and the commands that result."""

import functools
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from app.analysis.commands import (
    CommandFilter,
    ToldCommand,
    decode_command,
    instant_of_command,
    own_instants,
)
from app.analysis.files import FileLogs
from app.analysis.jobs import Opening, slices_of
from app.analysis.kafka_logs import KafkaLogs
from app.analysis.partition_logs import Logs, PartitionLog
from app.analysis.refold import ALL, LineWatch, Question, Slice
from app.analysis.variants import Variant, variants_of
from app.errors import CommandError, SettingsError, all_of
from app.garbage_collector import tune_memory
from app.kafka.topic_setup import common_count
from app.ranges import range_of
from app.settings import Settings
from streams.engine.order import FOREVER
from streams.engine.types import TP, Source
from streams.records import SCENARIOS
from streams.topics import ContractTopic, Topics

_EVERYTHING = CommandFilter()


@dataclass(frozen=True)
class Asked:
    """The arguments of a replay, checked."""

    settings: Settings
    variants: tuple[Variant, ...]
    wanted: CommandFilter = _EVERYTHING
    files: Path | None = None
    """The directory of an export; None: read the topics."""
    jobs: int = 1
    has_lengths: bool = False
    has_places: bool = False


def asked_for(
    settings: Settings,
    *,
    files: Path | None,
    since: str | None,
    until: str | None,
    run_length: str | None,
    window_hours: str | None,
    scenario: Sequence[str],
    account: str | None,
    jobs: int,
    has_lengths: bool = False,
    has_places: bool = False,
) -> Asked:
    """Parse the arguments that people give as text. Raises SettingsError, with a line for each
    mistake."""
    rules = settings.rules
    variants, (begin, end), *_ = all_of(
        lambda: variants_of(rules, run_length, window_hours),
        lambda: range_of(settings.zone, since, until),
        lambda: _check_scenarios(scenario),
        lambda: _check_jobs(jobs),
    )
    wanted = CommandFilter(begin, end, frozenset(scenario), account)
    return Asked(settings, variants, wanted, files, jobs, has_lengths, has_places)


def _check_scenarios(names: Sequence[str]) -> None:
    if not set(SCENARIOS).issuperset(names):
        raise SettingsError([f"--scenario: must be one of {', '.join(SCENARIOS)}"])


def _check_jobs(jobs: int) -> None:
    if jobs < 1:
        raise SettingsError(["--jobs: must be 1 or more"])


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program by an exception, so that unfinished files are deleted."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(asked: Asked) -> tuple[Logs, Opening]:
    """Open the export, or the topics where there is none. Return the logs, and what opens them in
    another process. Raises CommandError."""
    settings, topics = asked.settings, asked.settings.topics
    if asked.files is not None:
        needed = ContractTopic.CALL_RECORDS.value
        opening = functools.partial(FileLogs, asked.files, topics, needed=needed)
        return opening(), opening
    logs = KafkaLogs(settings)
    try:
        ends = logs.fix_ends([topics.accounts, topics.calls, topics.recharges, topics.ticks,
                              topics.announcements, topics.notifications])  # fmt: skip
    except BaseException:
        logs.close()
        raise
    return logs, functools.partial(KafkaLogs, settings, ends)


class Replay:
    """An open replay. Use it as a context manager, and iterate over its commands once."""

    def __init__(self, asked: Asked) -> None:
        """Open the logs. Raises CommandError."""
        self.asked = asked
        self.variants = asked.variants
        self.reading, self._opening = _open(asked)
        try:
            self.topics = self._topics()
        except BaseException:
            self.reading.close()
            raise
        question = Question(
            asked.settings.rules,
            self.topics,
            asked.variants,
            asked.has_lengths,
            asked.has_places,
        )
        self._question = question
        self.seen = LineWatch(question)
        """The folds of the lines, and the sums over all records."""
        self.span: tuple[int, int] | None = None
        """The first and last instant of all commands, wanted or not, and of the records."""
        self._told_wanted = 0

    def _topics(self) -> Topics:
        """Return the topics with the number of partitions of the logs that are read."""
        counts, topics = self.reading.counts(), self.asked.settings.topics
        if self.asked.files is not None:
            return replace(topics, partitions=max(counts[topics.calls], 1))
        for topic in (topics.accounts, topics.calls, topics.recharges, topics.ticks,
                      topics.announcements):  # fmt: skip
            if topic not in counts:
                raise CommandError(
                    f"there is no topic {topic}: check DIALWATCH_TOPIC_PREFIX, or create what is "
                    "missing with `dialwatch topics create`"
                )
        return replace(topics, partitions=common_count(topics, counts))

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        self.reading.close()

    def commands(self) -> Generator[tuple[int, bytes, ToldCommand | None], None, None]:
        """Fold everything; yield each wanted command: the variant's number (`ALL`: every variant
        has it), its bytes, and its fields if they were decoded."""
        tune_memory()
        wanted = self.asked.wanted
        slices = slices_of(self._question, self.reading, self._opening, self.asked.jobs)
        told = self.seen.told(self._shown(slices))
        if wanted.is_all:
            for variant, command in told:
                yield variant, command, None
            return
        for variant, command in told:
            said = decode_command(command)
            at = instant_of_command(said)
            self._stretch(at, at)
            if wanted.has(said, at):
                self._told_wanted += 1
                yield variant, command, said
        if not self._told_wanted and self._is_apart():
            raise CommandError("there are no records in this range: widen --since and --until")

    def sent(self) -> Iterator[Any]:
        """Yield the records of `notifications`. Call it after `commands`."""
        topic = self.topics.notifications
        if not self.reading.has(topic):
            raise CommandError(f"there is no {topic} to hold the replay against: export it too")
        logs = self._logs(topic)
        self.reading.begin(logs)
        yield from self._records_of(logs)

    def _logs(self, *topics: str) -> list[PartitionLog]:
        counts = self.reading.counts()
        return [
            PartitionLog(TP(topic, number), Source(topic, lambda _: None))
            for topic in topics
            for number in range(counts.get(topic, 0))
        ]

    def _records_of(self, logs: list[PartitionLog]) -> Iterator[Any]:
        """Yield the records of logs that reading has begun with, partition by partition as they
        come."""
        while True:
            self.reading.fill([log for log in logs if log.is_hungry])
            ready = [log for log in logs if log.at is not None]
            if not ready:
                return
            for log in ready:
                yield from log.take(1 << 30, FOREVER)

    def _is_apart(self) -> bool:
        """Is there nothing near the wanted range? Reads the records again where Kafka's timestamps
        say so: those of a history that was published later have other times in them."""
        wanted, topics = self.asked.wanted, self.topics
        if not wanted.is_apart(self.span):
            return False
        logs = self._logs(topics.calls, topics.recharges, topics.ticks, topics.announcements,
                          topics.notifications)  # fmt: skip
        self.reading.begin(logs)
        for record in self._records_of(logs):
            for at in own_instants(record.value):
                self._stretch(at, at)
                if not wanted.is_apart(self.span):
                    return False
        return True

    def notes(self) -> list[str]:
        """Return sentences about records that the replay lacked or left out."""
        notes = list(dict.fromkeys(self.reading.missing()))
        if self.seen.invalid:
            notes.append(f"{self.seen.invalid} invalid records were passed over")
        return notes

    def variants_of(self, number: int) -> Sequence[tuple[int, Variant]]:
        """Return the variants that a number stands for: one, or all for `ALL`."""
        if number == ALL:
            return list(enumerate(self.variants))
        return [(number, self.variants[number])]

    def _stretch(self, begin: int, end: int) -> None:
        span = self.span or (begin, end)
        self.span = min(span[0], begin), max(span[1], end)

    def _shown(self, slices: Iterator[Slice]) -> Iterator[Slice]:
        """Pass slices on, and show on a terminal how many records are folded."""
        console = Console(file=sys.stderr)
        shown = Progress(console=console, transient=True) if console.is_terminal else None
        waiting = 0
        with shown or nullcontext():
            bar = None if shown is None else shown.add_task("records", total=None)
            for one in slices:
                if abs(one.key[0]) < FOREVER and one.records:
                    at = one.key[0] * 1_000_000
                    self._stretch(at, at + 999_999)
                waiting += one.records
                if shown is not None and bar is not None and waiting > 20_000:
                    shown.advance(bar, waiting)
                    waiting = 0
                yield one

"""`dialwatch replay`: fold the topics again and print the commands; send and write nothing.

The same folds as the worker's, on states in memory, read without a group. Accounts are folded
first, as the topic holds them; then, partition by partition, everything else in the order of its
records' timestamps, so that ticks come after what is older. Partitions go on side by side in time,
because a line's calls come from several.
"""

import asyncio
import gc
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import Progress

from agents.register import watching
from agents.rules import Rules
from app.errors import CommandError, KafkaAwayError, SettingsError
from app.kafka.admin import open_admin
from app.kafka.topics import common_count
from app.rules import rules_of
from app.settings import Settings
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Output, Record, Source
from streams.kafka import fetching
from streams.records import SCENARIOS
from streams.times import parse_instant
from streams.topics import Topics, partition_of

CONNECT_SECONDS = 15.0
_POLL_MS = 20
_FETCH_BYTES = 4 << 20
# So much of one partition waits at most; and so often changed values become bytes again.
_MOST_BUFFERED = 50_000
_SEAL_EVERY = 200_000
_MOST_KNOWN_KEYS = 200_000


@dataclass(frozen=True)
class Wanted:
    """Which commands are printed; everything is folded."""

    since: int | None = None
    until: int | None = None
    scenarios: frozenset[str] = frozenset()
    account: str | None = None

    def has(self, command: bytes) -> bool:
        """Whether a command, as bytes, is to be printed."""
        if self == Wanted():
            return True
        said = _decode(command)
        at = parse_instant(said.occurred_at)
        return (
            (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and (not self.scenarios or said.scenario in self.scenarios)
            and (self.account is None or said.account_id == self.account)
        )


class _Command(msgspec.Struct):
    scenario: str
    account_id: str | None
    occurred_at: str


_decode = msgspec.json.Decoder(_Command).decode


class Caused(NamedTuple):
    """A record of an internal topic, which a replay only keeps in memory."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Any = ()


class Refold:
    """All partitions' states, the folds on them, and what comes out."""

    def __init__(self, rules: Rules, topics: Topics, on_command: Callable[[bytes], None]) -> None:
        self._topics = topics
        self._sources: dict[str, Source] = {one.topic: one for one in watching(rules, topics)}
        self.states = [State(number) for number in range(topics.partitions)]
        self._no_state = State(-1)
        """Of partitions that only `announcements` has: it may have more than the others."""
        self._on_command = on_command
        self.waiting: deque[tuple[TP, Caused]] = deque()
        self._folded = 0
        self._places: dict[bytes, int] = {}
        self.invalid = 0

    def order(self, topic: str) -> int:
        """Which of a partition's topics goes first at one moment."""
        return self._sources[topic].order

    def fold(self, tp: TP, records: list[Record]) -> None:
        """Fold records and whatever they cause in the group's own topics."""
        self.fold_one(tp, records)
        while self.waiting:
            caused, record = self.waiting.popleft()
            self.fold_one(caused, [record])
        self._folded += len(records)
        if self._folded >= _SEAL_EVERY:
            self._folded = 0
            for state in self.states:
                state.seal()
                state.apply()

    def fold_one(self, tp: TP, records: list[Any]) -> None:
        has_state = tp.partition < len(self.states)
        state = self.states[tp.partition] if has_state else self._no_state
        batch = Chunk(tp, records, state, self.emit, lambda: None)
        self._sources[tp.topic].fold(batch)

    def emit(self, output: Output) -> None:
        if output.topic == self._topics.notifications:
            self._on_command(output.value or b"")
        elif output.topic == self._topics.dead_letters:
            self.invalid += 1
        else:
            partition = output.partition
            if partition is None:
                partition = self._place(output.key or b"")
            record = Caused(0, 0, output.key, output.value)
            self.waiting.append((TP(output.topic, partition), record))

    def _place(self, key: bytes) -> int:
        place = self._places.get(key)
        if place is None:
            place = partition_of(key, self._topics.partitions)
            if len(self._places) >= _MOST_KNOWN_KEYS:
                self._places.clear()
            self._places[key] = place
        return place


@dataclass
class _Log:
    """One partition of a topic, read up to the end it had."""

    tp: TP
    order: int
    end: int
    records: list[Record] = field(default_factory=list)
    is_read: bool = False

    def take(self, until: int) -> list[Record]:
        """Take the records up to a timestamp, at least one."""
        count = max(1, bisect_right(self.records, until, key=_timestamp))
        taken = self.records[:count]
        self.records = self.records[count:]
        return taken


def _timestamp(record: Record) -> int:
    return record.timestamp


def fold_in_time(logs: Iterable[_Log], up_to: int | None, fold: Callable[[TP, Any], None]) -> int:
    """Fold one partition's logs in the order of their timestamps; return how many records.

    `up_to`: no further than this timestamp; None: all that is there.
    """
    folded = 0
    while True:
        heads = sorted(
            (log.records[0].timestamp, log.order, number, log)
            for number, log in enumerate(logs)
            if log.records
        )
        if not heads or (up_to is not None and heads[0][0] > up_to):
            return folded
        first = heads[0][3]
        bounds = [up_to] if up_to is not None else []
        if len(heads) > 1:
            at, order = heads[1][0], heads[1][1]
            # What happened in the same millisecond goes in the order of the topics.
            bounds.append(at if first.order < order else at - 1)
        records = first.take(min(bounds, default=first.records[-1].timestamp))
        fold(first.tp, records)
        folded += len(records)


def read_up_to(unread: Iterable[_Log]) -> int | None:
    """Return the timestamp up to which nothing more is to come of logs that aren't read to their
    ends, None: there are none.

    Timestamps are the producers', and clocks differ: where they go backwards the first record of
    a log is folded all the same, or a replay of full buffers would stand still.
    """
    return min(
        (max(log.records[0].timestamp, log.records[-1].timestamp) for log in unread), default=None
    )


def run_replay(
    settings: Settings,
    *,
    since: str | None = None,
    until: str | None = None,
    run_length: int | None = None,
    scenario: list[str] | None = None,
    account: str | None = None,
) -> int:
    """Print the commands as JSON lines; return the exit code.

    Raises SettingsError for a wrong argument, CommandError where Kafka or a topic is missing.
    """
    wanted = Wanted(
        _instant("--since", since),
        _instant("--until", until),
        _scenarios(scenario or []),
        account,
    )
    rules = rules_of(settings)
    if run_length is not None:
        rules = replace(rules, run_length=run_length)

    out = sys.stdout.buffer

    def on_command(command: bytes) -> None:
        if wanted.has(command):
            out.write(command + b"\n")

    gc.set_threshold(200_000)
    try:
        invalid = asyncio.run(_replay(settings, rules, on_command))
    except KafkaError as error:
        raise KafkaAwayError(
            f"Kafka went away during the replay ({type(error).__name__}): run it again"
        ) from None
    out.flush()
    if invalid:
        print(f"{invalid} invalid records were passed over", file=sys.stderr)
    return 0


def _instant(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_instant(text)
    except ValueError as error:
        raise SettingsError([f"{option}: {error}, for example 2026-02-14T00:00:00+08:00"]) from None


def _scenarios(names: list[str]) -> frozenset[str]:
    for name in names:
        if name not in SCENARIOS:
            raise SettingsError([f"--scenario: must be one of {', '.join(SCENARIOS)}"])
    return frozenset(names)


async def _replay(settings: Settings, rules: Rules, on_command: Callable[[bytes], None]) -> int:
    counts = await _partition_counts(settings)
    topics = replace(settings.topics, partitions=common_count(settings.topics, counts))
    refold = Refold(rules, topics, on_command)
    fetching.install()
    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_bytes=16 * _FETCH_BYTES,
        fetch_max_wait_ms=_POLL_MS,
        check_crcs=False,
    )
    console = Console(stderr=True)
    try:
        await consumer.start()
        bars = Progress(console=console, transient=True) if console.is_terminal else nullcontext()
        with bars as shown:
            for phase in (
                [topics.accounts],
                [topics.calls, topics.recharges, topics.ticks, topics.announcements],
            ):
                tps = [TP(topic, n) for topic in phase for n in range(counts[topic])]
                await _read(consumer, tps, refold, shown)
    finally:
        await consumer.stop()
    return refold.invalid


async def _partition_counts(settings: Settings) -> dict[str, int]:
    topics = settings.topics
    async with open_admin(settings, timeout_s=CONNECT_SECONDS) as admin:
        counts = await admin.partition_counts()
    for topic in (
        topics.accounts, topics.calls, topics.recharges, topics.ticks, topics.announcements
    ):  # fmt: skip
        if topic not in counts:
            raise CommandError(
                f"there is no topic {topic}: check DIALWATCH_TOPIC_PREFIX, or create what is "
                "missing with `dialwatch topics create`"
            )
    return counts


async def _read(
    consumer: AIOKafkaConsumer, tps: list[TP], refold: Refold, shown: Progress | None
) -> None:
    """Read logs from their beginnings to their present ends, and fold them as time passes."""
    theirs = [TopicPartition(*tp) for tp in tps]
    consumer.assign(theirs)
    await consumer.seek_to_beginning(*theirs)
    begins, ends = await consumer.beginning_offsets(theirs), await consumer.end_offsets(theirs)
    logs = {tp: _Log(tp, refold.order(tp.topic), ends[TopicPartition(*tp)]) for tp in tps}
    partitions: dict[int, list[_Log]] = {}
    for tp, log in logs.items():
        log.is_read = begins[TopicPartition(*tp)] >= log.end
        partitions.setdefault(tp.partition, []).append(log)
    if shown is not None:
        whole = sum(ends.values()) - sum(begins.values())
        bar = shown.add_task(", ".join(sorted({tp.topic for tp in tps})), total=whole)
    while True:
        unread = [log for log in logs.values() if not log.is_read]
        # What is read of the others mustn't be folded before what these may still bring.
        hungry = [log for log in unread if not log.records]
        await _fetch(consumer, hungry or [
            log for log in unread if len(log.records) < _MOST_BUFFERED
        ])  # fmt: skip
        unread = [log for log in unread if not log.is_read]
        if any(not log.records for log in unread):
            continue
        up_to = read_up_to(unread)
        folded = sum(
            fold_in_time(ours, up_to, refold.fold) for _, ours in sorted(partitions.items())
        )
        if shown is not None:
            shown.advance(bar, folded)
        if not unread:
            return


async def _fetch(consumer: AIOKafkaConsumer, logs: list[_Log]) -> None:
    if not logs:
        return
    by_tp = {TopicPartition(*log.tp): log for log in logs}
    for tp, records in (await consumer.getmany(*by_tp, timeout_ms=_POLL_MS)).items():
        log = by_tp[tp]
        log.records = log.records + [one for one in records if one.offset < log.end]
    for tp, log in by_tp.items():
        # Behind the last record there may be a transaction's marker: only the position knows.
        log.is_read = await consumer.position(tp) >= log.end

"""An export on disk: the paths and content of its files, and reading them as logs.

    DIRECTORY/export.json                           what was exported
    DIRECTORY/call-records/3/2026-11-24.parquet     records of one partition and local day

Rows are in the order of their offsets. Where timestamps go backwards over midnight, the offsets of
two days' files overlap; these are read as one.
"""

import base64
import binascii
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import merge
from itertools import islice
from operator import ge
from pathlib import Path
from typing import Any, Literal

import msgspec

from app.analysis.parquet import row_groups
from app.analysis.partition_logs import (
    RUNS_UNKNOWN,
    TOLD_UNKNOWN,
    FileRecord,
    PartitionLog,
)
from app.errors import CommandError
from streams.engine.types import TP
from streams.topics import CO_PARTITIONED, ContractTopic, Topics

MANIFEST = "export.json"
FileFormat = Literal["parquet", "jsonl"]
_PATH = re.compile(r"([a-z-]+)/(\d+)/(\d{4,}-\d\d-\d\d|-\d+)\.(parquet|jsonl)", re.ASCII)
_COLUMNS = ("topic", "partition", "offset", "timestamp", "key", "value")
_MOST_LINES = 10_000
_MOST_OFFSETS = 1 << 20
# What a replay folds besides call-records.
_INPUTS = (
    ContractTopic.ACCOUNTS,
    ContractTopic.RECHARGES,
    ContractTopic.TICKS,
    ContractTopic.ANNOUNCEMENTS,
)
_HEADERS = ("headers",)
# The topics of which each partition has records in an installation that works.
_EVERYWHERE = (ContractTopic.CALL_RECORDS, ContractTopic.TICKS)


class Bytes(msgspec.Struct):
    """Bytes that aren't UTF-8, in JSON lines."""

    base64: str


class Header(msgspec.Struct):
    """One header of a record, in JSON lines."""

    key: str
    value: str | Bytes | None


class Line(msgspec.Struct):
    """One record, in JSON lines."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | Bytes | None
    value: str | Bytes | None
    headers: list[Header] = []


class DayFile(msgspec.Struct):
    """The manifest's entry for one file."""

    records: int
    first: int
    last: int
    """The offsets of the first and last record."""


class LogExport(msgspec.Struct):
    """The manifest's entry for one partition."""

    begin: int = 0
    """The first offset that was exported: the files hold nothing before it."""
    next: int = 0
    """The files hold all records of the range before this offset."""
    end: int = 0
    """The log's end offset at the time of the export."""
    log_begin: int = 0
    """The log's first offset at the first export: older records were deleted."""
    days: dict[str, DayFile] = {}
    holes: list[tuple[int, int]] = []
    """What Kafka had deleted before it was exported, later than the beginning: first offsets, and
    those that follow the last."""
    is_over: bool = False
    """Was the end of the range reached? Then nothing that comes later belongs to it."""


class TopicExport(msgspec.Struct):
    """The manifest's entry for one topic."""

    since: int | None = None
    until: int | None = None
    """The range of timestamps (ms) that was asked for."""
    words: tuple[str | None, str | None] | None = None
    """The range as it was written, so that `-7d` means the same days when an interrupted export
    goes on."""
    partitions: dict[str, LogExport] = {}
    topic_id: str = ""
    """Kafka's id of the topic, in hexadecimal; empty: it isn't known."""

    @property
    def records(self) -> int:
        """The number of records in the files."""
        return sum(day.records for log in self.partitions.values() for day in log.days.values())


class Manifest(msgspec.Struct):
    """What an export holds so far: the content of `export.json`."""

    format: FileFormat
    timezone: str
    topics: dict[str, TopicExport] = {}


def read_manifest(directory: Path) -> Manifest | None:
    """Return an export's manifest; None: there is none. Raises CommandError where it is broken."""
    file = directory / MANIFEST
    try:
        return msgspec.json.decode(file.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(
            f"{file} can't be read ({error}): export into another directory"
        ) from None


def day_path(directory: Path, topic: str, partition: int, day: str, format_: FileFormat) -> Path:
    """Return the path of the file with a partition's records of one local day."""
    return directory / topic / str(partition) / f"{day}.{format_}"


def find_files(directory: Path) -> dict[tuple[str, int], list[Path]]:
    """Return an export's files by contract topic and partition."""
    files: defaultdict[tuple[str, int], list[Path]] = defaultdict(list)
    for file in sorted(directory.rglob("*")):
        found = _PATH.fullmatch(file.relative_to(directory).as_posix())
        if found is not None:
            files[found[1], int(found[2])].append(file)
    return dict(files)


def to_text(raw: bytes | None) -> str | Bytes | None:
    """Return bytes for JSON: text where they are UTF-8."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Bytes(base64.b64encode(raw).decode())


def to_bytes(said: str | Bytes | None) -> bytes | None:
    """The inverse of `to_text`."""
    if isinstance(said, Bytes):
        return base64.b64decode(said.base64, validate=True)
    return None if said is None else said.encode()


class FileLogs:
    """An export's files as `Logs`."""

    def __init__(self, directory: Path, topics: Topics, needed: str | None = None) -> None:
        """Find an export's files. Raises CommandError where the directory is no export or doesn't
        have the topic `needed`."""
        if not directory.is_dir():
            raise CommandError(
                f"there is no directory {directory}: make one with `dialwatch export … --to`"
            )
        self._topics = topics
        self._files = find_files(directory)
        self._manifest = read_manifest(directory)
        self._there = {topic for topic, _ in self._files}
        """The contract names of the topics that were exported. One without any record has no file,
        but the manifest names it."""
        if self._manifest is not None:
            self._there |= self._manifest.topics.keys()
        if needed is not None and needed not in self._there:
            there = ", ".join(sorted(self._there)) or "nothing"
            raise CommandError(
                f"{directory} holds no export of {needed} ({there}): "
                f"`dialwatch export {needed} … --to {directory}` makes one"
            )
        self._reading: dict[TP, Iterator[tuple[list[Any], list[int]]]] = {}
        self._begun: set[str] = set()
        """The contract names of the topics that were read."""
        self._spans: dict[Path, tuple[int, int]] = {}
        """The first and last offset of each file that was checked: a topic may be read again."""

    def counts(self) -> dict[str, int]:
        """See `Logs`."""
        counts: dict[str, int] = {}
        for topic in ContractTopic:
            numbers = [number for name, number in self._files if name == topic.value]
            known = self._manifest.topics.get(topic.value) if self._manifest else None
            numbers += [int(number) for number in known.partitions] if known else []
            counts[topic.value] = max(numbers, default=-1) + 1
        most = max(counts[topic.value] for topic in CO_PARTITIONED)
        for topic in CO_PARTITIONED:
            counts[topic.value] = most
        return {self._topics.name(topic): counts[topic.value] for topic in ContractTopic}

    def has(self, topic: str) -> bool:
        return self._contract_name(topic) in self._there

    def begin(self, logs: Iterable[PartitionLog]) -> int:
        self._reading.clear()
        records = 0
        for log in logs:
            topic = self._contract_name(log.tp.topic)
            self._begun.add(topic)
            files = self._files.get((topic, log.tp.partition), [])
            log.is_ended = not files
            if files:
                known = self._known(topic, log.tp.partition)
                days = known.days if known else {}
                span_of = partial(self._span, days)
                self._reading[log.tp] = _chunks(files, span_of, topic, log.tp.partition)
                records += sum(day.records for day in days.values())
        return records

    def _span(self, days: dict[str, DayFile], file: Path) -> tuple[int, int]:
        if file not in self._spans:
            self._spans[file] = check_whole(file, days.get(file.stem))
        return self._spans[file]

    def fill(self, hungry: list[PartitionLog]) -> None:
        for log in hungry:
            records, timestamps = next(self._reading[log.tp], (None, None))
            if records is None:
                log.is_ended = True
            else:
                log.add(records, timestamps)

    def close(self) -> None:
        self._reading.clear()

    def missing(self) -> list[str]:
        """See `Logs`. Raises CommandError."""
        said: list[str] = []
        counts = self.counts()
        # An export may hold topics that a replay doesn't fold.
        read = {ContractTopic.CALL_RECORDS, *_INPUTS} | self._begun
        topics = [topic for topic in ContractTopic if topic in read]
        for topic in topics:
            said += self._missing_files(topic, counts[self._topics.name(topic)])
        for topic in topics:
            said += self._missing_records(topic)
        return said

    def _missing_files(self, topic: ContractTopic, count: int) -> Iterator[str]:
        """Yield sentences about the partitions and days of which there is no file."""
        exported = self._exported(topic)
        if not any(name == topic for name, _ in self._files) and (
            topic in _INPUTS if exported is None else exported.records
        ):
            yield f"the export has no records of {topic.value}"
            return
        parts, lost = [], set()
        for number in range(count):
            files = self._files.get((topic, number), [])
            known = self._known(topic, number)
            if known is None:
                is_lacking = topic in _EVERYWHERE
            else:
                is_lacking = bool(known.days)
                lost |= known.days.keys() - {file.stem for file in files} if files else set()
            if is_lacking and not files:
                parts.append(str(number))
        if parts:
            yield f"the export has no {topic.value} of partitions {', '.join(parts)}"
        if lost:
            yield (
                f"the export of {topic.value} lacks files of {', '.join(sorted(lost))}: what of "
                "these days isn't there counts as if it had never been"
            )

    def _missing_records(self, topic: ContractTopic) -> Iterator[str]:
        """Yield sentences about records that were never exported."""
        unknown = TOLD_UNKNOWN if topic == ContractTopic.NOTIFICATIONS else RUNS_UNKNOWN
        exported = self._exported(topic) or TopicExport()
        logs = sorted((int(number), log) for number, log in exported.partitions.items())
        # In a compacted topic missing records are normal.
        deleted = [str(n) for n, log in logs if log.log_begin and topic != ContractTopic.ACCOUNTS]
        if deleted:
            yield (
                f"the beginning of {topic.value} was deleted before it was exported (partitions "
                f"{', '.join(deleted)}): {unknown}"
            )
        begins = [] if topic == ContractTopic.ACCOUNTS else self._unexplained_begins(topic)
        if begins:
            yield f"what there is of {topic.value} begins at {', '.join(begins)}: {unknown}"
        holes = [
            f"{first} to {end - 1} of partition {n}" for n, log in logs for first, end in log.holes
        ]
        if holes:
            yield (
                f"the export of {topic.value} lacks offsets {', '.join(holes)}: Kafka had deleted "
                "them before they were exported"
            )
        if any(log.next < log.end for _, log in logs):
            yield f"the export of {topic.value} was cut off: run the same export again"
        if exported.since is not None or exported.until is not None:
            yield f"the export holds only a range of {topic.value}: {unknown}"

    def _unexplained_begins(self, topic: ContractTopic) -> list[str]:
        """Return where the partitions begin of which no manifest says what was exported."""
        return [
            f"offset {first} of partition {number}"
            for (name, number), files in sorted(self._files.items())
            if name == topic and self._known(topic, number) is None
            if (first := min(map(_first_offset, files))) > 0
        ]

    def _exported(self, topic: str) -> TopicExport | None:
        """Return what the manifest says of a topic; None: nothing."""
        return self._manifest.topics.get(topic) if self._manifest else None

    def _known(self, topic: str, number: int) -> LogExport | None:
        """Return what the manifest says of a partition; None: nothing."""
        exported = self._exported(topic)
        return exported.partitions.get(str(number)) if exported else None

    def _contract_name(self, real: str) -> str:
        return real.removeprefix(self._topics.prefix)


def _chunks(
    files: list[Path], span_of: Callable[[Path], tuple[int, int]], topic: str, partition: int
) -> Iterator[tuple[list[Any], list[int]]]:
    """Yield a partition's records in lists, in the order of offsets, each with its timestamps.
    `span_of`: returns a file's first and last offset."""
    spans = sorted((*span_of(file), file) for file in files)
    across: list[Path] = []
    end = -1
    groups: list[list[Path]] = []
    for first, last, file in spans:
        if first > end:
            across = []
            groups.append(across)
        across.append(file)
        end = max(end, last)
    for group in groups:
        reading = [_read(file, topic, partition) for file in group]
        if len(reading) == 1:
            yield from reading[0]
            continue
        streams = [(record for records, _ in one for record in records) for one in reading]
        some: list[Any] = []
        before = -1
        for record in merge(*streams, key=lambda one: one.offset):
            if record.offset == before:
                names = ", ".join(map(str, group))
                raise CommandError(
                    f"offset {before} is in several of {names}: delete the files that don't belong "
                    "there"
                )
            before = record.offset
            some.append(record)
            if len(some) >= _MOST_LINES:
                yield some, [one.timestamp for one in some]
                some = []
        if some:
            yield some, [one.timestamp for one in some]


def check_whole(file: Path, known: DayFile | None) -> tuple[int, int]:
    """Return a file's first and last offset. Raises CommandError where it isn't whole: empty, not
    in the order of offsets, or with fewer records than the manifest says. After an interruption
    there may be more."""
    first = last = -1
    records = 0
    for begin, end, count, is_ordered in _spans(file):
        if begin <= last or not is_ordered:
            raise _broken(file, "its records aren't in the order of their offsets")
        first = begin if first < 0 else first
        last = end
        records += count
    if records < (1 if known is None else known.records):
        raise _broken(
            file, f"it holds {records} records" + ("" if known is None else f" of {known.records}")
        )
    return first, last


def _first_offset(file: Path) -> int:
    return next((begin for begin, *_ in _spans(file, 1)), 0)


def _spans(file: Path, most: int = _MOST_OFFSETS) -> Iterator[tuple[int, int, int, bool]]:
    """Yield of each part of a file, of about `most` records at most: its first and last offset, how
    many there are, and whether each is larger than the one before."""
    if file.suffix == ".parquet":
        for frame in row_groups(file, ["offset"], most):
            column = frame["offset"]
            step = column.diff().min()
            yield column[0], column[-1], len(column), step is None or step > 0
    else:
        for lines in _lines(file, min(most, _MOST_LINES)):
            offsets = [line.offset for line in lines]
            is_ordered = not any(map(ge, offsets, islice(offsets, 1, None)))
            yield offsets[0], offsets[-1], len(offsets), is_ordered


def _read(file: Path, topic: str, partition: int) -> Iterator[tuple[list[Any], list[int]]]:
    if file.suffix == ".parquet":
        # They say whose command one is; and that an expansion moved an account, which is a hint
        # only, that files which other tools wrote may lack.
        needed = _HEADERS if topic == ContractTopic.NOTIFICATIONS else ()
        hints = _HEADERS if topic == ContractTopic.ACCOUNTS else ()
        for frame in row_groups(file, [*_COLUMNS, *needed], if_there=hints):
            _check_place(file, frame["topic"][0], frame["partition"][0], topic, partition)
            timestamps = frame["timestamp"].to_list()
            lists = [frame["offset"].to_list(), timestamps,
                     frame["key"].to_list(), frame["value"].to_list()]  # fmt: skip
            if "headers" in frame.columns:
                lists.append(
                    [
                        tuple((one["key"], one["value"] or b"") for one in headers or ())
                        for headers in frame["headers"].to_list()
                    ]
                )
            yield list(map(FileRecord, *lists)), timestamps
        return
    for lines in _lines(file):
        _check_place(file, lines[0].topic, lines[0].partition, topic, partition)
        try:
            records = [
                FileRecord(
                    one.offset,
                    one.timestamp,
                    to_bytes(one.key),
                    to_bytes(one.value),
                    tuple((header.key, to_bytes(header.value) or b"") for header in one.headers),
                )
                for one in lines
            ]
        except binascii.Error:
            raise _broken(file, "its base64 is wrong") from None
        yield records, [one.timestamp for one in records]


def _lines(file: Path, most: int = _MOST_LINES) -> Iterator[list[Line]]:
    decode = msgspec.json.Decoder(Line).decode
    some: list[Line] = []
    try:
        with file.open("rb") as lines:
            for line in lines:
                some.append(decode(line))
                if len(some) >= most:
                    yield some
                    some = []
    except (OSError, msgspec.MsgspecError) as error:
        raise _broken(file, str(error)) from None
    if some:
        yield some


def _broken(file: Path, why: str) -> CommandError:
    return CommandError(f"{file} is no whole export ({why}): delete it and export it again")


def _check_place(file: Path, is_topic: str, is_partition: int, topic: str, partition: int) -> None:
    if (is_topic, is_partition) != (topic, partition):
        raise CommandError(
            f"{file} holds records of {is_topic}-{is_partition}: it belongs elsewhere, see "
            "`dialwatch export --help`"
        )

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
from collections.abc import Iterable, Iterator
from heapq import merge
from pathlib import Path
from typing import Any, Literal

import msgspec

from app.analysis.parquet import offsets_of, row_groups
from app.analysis.partition_logs import FileRecord, PartitionLog
from app.errors import CommandError
from streams.engine.types import TP
from streams.topics import CO_PARTITIONED, ContractTopic, Topics

MANIFEST = "export.json"
FileFormat = Literal["parquet", "jsonl"]
_PATH = re.compile(r"([a-z-]+)/(\d+)/(\d{4,}-\d\d-\d\d|-\d+)\.(parquet|jsonl)")
_COLUMNS = ("topic", "partition", "offset", "timestamp", "key", "value")
_MOST_LINES = 10_000


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
    """The log's first offset then: older records were deleted."""
    days: dict[str, DayFile] = {}


class TopicExport(msgspec.Struct):
    """The manifest's entry for one topic."""

    since: int | None = None
    until: int | None = None
    """The range of timestamps (ms) that was asked for."""
    words: tuple[str | None, str | None] | None = None
    """The range as it was written, so that `-7d` means the same days when an interrupted export
    goes on."""
    partitions: dict[str, LogExport] = {}


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
        self._directory = directory
        self._topics = topics
        self._files: defaultdict[tuple[str, int], list[Path]] = defaultdict(list)
        for file in sorted(directory.rglob("*")):
            found = _PATH.fullmatch(file.relative_to(directory).as_posix())
            if found is not None:
                self._files[found[1], int(found[2])].append(file)
        self._manifest = read_manifest(directory)
        there = sorted({topic for topic, _ in self._files})
        if needed is not None and needed not in there:
            raise CommandError(
                f"{directory} holds no export of {needed} ({', '.join(there) or 'nothing'}): "
                f"`dialwatch export {needed} … --to {directory}` makes one"
            )
        self._reading: dict[TP, Iterator[tuple[list[Any], list[int]]]] = {}

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

    def begin(self, logs: Iterable[PartitionLog]) -> int:
        self._reading.clear()
        records = 0
        for log in logs:
            topic = self._contract_name(log.tp.topic)
            files = self._files.get((topic, log.tp.partition), [])
            log.is_ended = not files
            if files:
                has_headers = topic == ContractTopic.NOTIFICATIONS
                self._reading[log.tp] = _chunks(files, topic, log.tp.partition, has_headers)
                days = self._log_export(topic, log.tp.partition).days
                records += sum(day.records for day in days.values())
        return records

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
        """See `Logs`."""
        said = []
        inputs = ("accounts", "recharges", "ticks", "announcements")
        absent = [topic for topic in inputs if not any(name == topic for name, _ in self._files)]
        if absent:
            said.append(f"the export has no records of {', '.join(absent)}")
        calls = ContractTopic.CALL_RECORDS.value
        count = self.counts()[self._topics.name(ContractTopic.CALL_RECORDS)]
        parts = [
            number
            for number in range(count)
            if (calls, number) not in self._files and not self._is_empty(calls, number)
        ]
        if parts:
            numbers = ", ".join(map(str, parts))
            said.append(f"the export has no {calls} of partitions {numbers}")
        known = self._manifest.topics if self._manifest else {}
        for name, topic in known.items():
            cut = [n for n, log in topic.partitions.items() if log.next < log.end]
            if cut:
                said.append(f"the export of {name} was cut off: run the same export again")
            lost = sorted(
                {
                    day
                    for number, log in topic.partitions.items()
                    for day in log.days
                    if (files := self._files.get((name, int(number))))
                    and all(one.stem != day for one in files)
                }
            )
            if lost:
                said.append(
                    f"the export of {name} lacks files of {', '.join(lost)}: what of these days "
                    "isn't there counts as if it had never been"
                )
            if topic.since is not None or topic.until is not None:
                said.append(
                    f"the export holds only a range of {name}: what batches, runs and customers "
                    "were before it isn't known"
                )
        return said

    def _is_empty(self, topic: str, number: int) -> bool:
        known = self._manifest.topics.get(topic) if self._manifest else None
        log = known.partitions.get(str(number)) if known else None
        return log is not None and log.end == log.log_begin

    def _log_export(self, topic: str, number: int) -> LogExport:
        known = self._manifest.topics.get(topic) if self._manifest else None
        return (known.partitions.get(str(number)) if known else None) or LogExport()

    def _contract_name(self, real: str) -> str:
        return real.removeprefix(self._topics.prefix)


def _chunks(
    files: list[Path], topic: str, partition: int, has_headers: bool
) -> Iterator[tuple[list[Any], list[int]]]:
    """Yield a partition's records in lists, in the order of offsets, each with its timestamps."""
    spans = sorted((*_span(file), file) for file in files)
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
        reading = [_read(file, topic, partition, has_headers) for file in group]
        if len(reading) == 1:
            yield from reading[0]
            continue
        streams = [(record for records, _ in one for record in records) for one in reading]
        some: list[Any] = []
        for record in merge(*streams, key=lambda one: one.offset):
            some.append(record)
            if len(some) >= _MOST_LINES:
                yield some, [one.timestamp for one in some]
                some = []
        if some:
            yield some, [one.timestamp for one in some]


def _span(file: Path) -> tuple[int, int]:
    """Return a file's first and last offset."""
    if file.suffix == ".parquet":
        return offsets_of(file)
    first = last = -1
    for lines in _lines(file):
        first = lines[0].offset if first < 0 else first
        last = lines[-1].offset
    return first, last


def _read(
    file: Path, topic: str, partition: int, has_headers: bool
) -> Iterator[tuple[list[Any], list[int]]]:
    if file.suffix == ".parquet":
        columns = [*_COLUMNS, *(["headers"] if has_headers else [])]
        for frame in row_groups(file, columns):
            _check_place(file, frame["topic"][0], frame["partition"][0], topic, partition)
            timestamps = frame["timestamp"].to_list()
            lists = [frame["offset"].to_list(), timestamps,
                     frame["key"].to_list(), frame["value"].to_list()]  # fmt: skip
            if has_headers:
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


def _lines(file: Path) -> Iterator[list[Line]]:
    decode = msgspec.json.Decoder(Line).decode
    some: list[Line] = []
    try:
        with file.open("rb") as lines:
            for line in lines:
                some.append(decode(line))
                if len(some) >= _MOST_LINES:
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

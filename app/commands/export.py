"""`dialwatch export`: write records unchanged into files, for notebooks and replays.

There is one file for each partition and local day, written under another name and then renamed.
The next run goes on where the last one ended, without writing complete files again.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import date, datetime, timedelta, tzinfo
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec
from rich.console import Console
from rich.progress import Progress

from app.analysis.files import (
    MANIFEST,
    DayFile,
    FileFormat,
    Header,
    Line,
    LogExport,
    Manifest,
    TopicExport,
    check_whole,
    day_path,
    find_files,
    read_manifest,
    to_text,
)
from app.analysis.kafka_logs import KafkaLogs
from app.analysis.parquet import ROW_GROUP, GroupsWriter, export_schema, load_polars
from app.analysis.partition_logs import PartitionLog
from app.errors import CommandError, SettingsError, all_of
from app.garbage_collector import tune_memory
from app.ranges import range_of
from app.settings import Settings
from streams.engine.order import FOREVER
from streams.engine.types import TP, Chunk, Source
from streams.times import local_datetime, to_instant
from streams.topics import ContractTopic

# Timestamps may go backwards, since producers' clocks differ: a day's file is complete this long
# after the day.
_LATE_MS = 24 * 3600 * 1000
_PARTS = ".export-"
_ENDLESS = 1 << 63


def run_export(
    settings: Settings,
    topics: Sequence[str],
    *,
    to: Path,
    since: str | None = None,
    until: str | None = None,
    format_: FileFormat = "parquet",
) -> int:
    """Export topics, given by contract name; return the exit code.

    Raises SettingsError for a wrong argument, CommandError where Kafka, a topic or space is
    missing.
    """
    names, (begin, end) = checked(settings, topics=topics, to=to, since=since, until=until)
    if format_ == "parquet":
        load_polars()
    tune_memory()
    try:
        to.mkdir(parents=True, exist_ok=True)
        with _alone(to):
            wanted = TopicExport(_ms(begin), _ms(end), (since, until))
            return _export(settings, names, to, wanted, format_)
    except OSError as error:
        raise CommandError(f"can't write to {to}: {error.strerror or error}") from None


def checked(
    settings: Settings,
    *,
    topics: Sequence[str] = (),
    to: Path | None = None,
    since: str | None = None,
    until: str | None = None,
    **_: object,
) -> tuple[list[ContractTopic], tuple[int | None, int | None]]:
    """Return the topics and the range of an export's arguments. Raises SettingsError with a line
    for each mistake."""
    names, bounds, _ = all_of(
        lambda: _names(settings, topics),
        lambda: range_of(settings.zone, since, until),
        lambda: _check_directory(to),
    )
    return names, bounds


def _check_directory(to: Path | None) -> None:
    if to is not None and to.exists() and not to.is_dir():
        raise SettingsError([f"--to: {to} is a file: name a directory"])


def _names(settings: Settings, topics: Sequence[str]) -> list[ContractTopic]:
    known = {topic.value: topic for topic in ContractTopic}
    known |= {settings.topics.name(topic): topic for topic in ContractTopic}
    wrong = [name for name in topics if name not in known]
    if wrong:
        given = ", ".join(topic.value for topic in ContractTopic)
        raise SettingsError([f"{name}: is no topic of dialwatch's: {given}" for name in wrong])
    return list(dict.fromkeys(known[name] for name in topics))


def _ms(instant: int | None) -> int | None:
    """Return an instant as milliseconds, rounded up."""
    return None if instant is None else -(-instant // 1000)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock a directory for this export; delete temporary files that an interrupted one left."""
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another export is writing into {directory}: wait for it, or name another"
            ) from None
        for left in directory.glob(f"{_PARTS}*"):
            shutil.rmtree(left, ignore_errors=True)
        for pattern in (".*.part", "*/*/.*.part"):
            for part in directory.glob(pattern):
                part.unlink()
        yield


def _export(
    settings: Settings,
    names: list[ContractTopic],
    directory: Path,
    wanted: TopicExport,
    format_: FileFormat,
) -> int:
    manifest = read_manifest(directory) or Manifest(format_, settings.timezone)
    # Where nothing was found, nothing is gone on with: range and format may be others now.
    for name in names:
        if name.value in manifest.topics and not manifest.topics[name.value].records:
            del manifest.topics[name.value]
    if not any(topic.records for topic in manifest.topics.values()):
        manifest.format, manifest.timezone = format_, settings.timezone
    _check_same(manifest, directory, settings, names, wanted, format_)
    kafka = KafkaLogs(settings)
    console = Console(stderr=True)
    shown = Progress(console=console, transient=True) if console.is_terminal else None
    records = 0
    try:
        found = kafka.topic_ids(map(settings.topics.name, names))
        ids = {name.value: found.get(settings.topics.name(name), b"").hex() for name in names}
        _check_ids(manifest, directory, ids)
        with shown or nullcontext():
            for name in names:
                topic = manifest.topics.setdefault(
                    name.value, msgspec.structs.replace(wanted, partitions={})
                )
                topic.topic_id = ids.get(name.value) or topic.topic_id
                export = _TopicWriter(settings, kafka, manifest, directory, name, topic)
                export.run(shown)
                records += topic.records
                for line in (
                    f"{export.written} records written, {topic.records} held",
                    *export.notes(wanted),
                ):
                    print(f"{name.value}: {line}", file=console.file)
    finally:
        kafka.close()
    if not records and (wanted.since is not None or wanted.until is not None):
        raise CommandError("there are no records in this range: widen --since and --until")
    return 0


def _check_same(
    manifest: Manifest,
    directory: Path,
    settings: Settings,
    names: list[ContractTopic],
    wanted: TopicExport,
    format_: FileFormat,
) -> None:
    """Raise SettingsError where a directory holds another export, which this one can't continue."""
    if manifest.format != format_:
        raise SettingsError([f"--format: {directory} is an export in {manifest.format}"])
    if manifest.timezone != settings.timezone:
        raise SettingsError([f"--to: the days in {directory} are those of {manifest.timezone}"])
    for name in names:
        known = manifest.topics.get(name.value)
        if known is None or known.words == wanted.words:
            continue
        if (known.since, known.until) != (wanted.since, wanted.until):
            raise SettingsError(
                [f"--to: {directory} holds another range of {name.value}: name another directory"]
            )


def _check_ids(manifest: Manifest, directory: Path, ids: dict[str, str]) -> None:
    """Raise CommandError where a directory holds records of other topics of the same names."""
    for name, topic_id in ids.items():
        known = manifest.topics.get(name)
        if known is not None and known.topic_id and topic_id and known.topic_id != topic_id:
            raise CommandError(
                f"{directory} holds records of another topic {name}, of another cluster or prefix "
                "or from before it was made anew: export into another directory"
            )


class _DayWriter(Protocol):
    """Collects a day's records and writes its file."""

    def add(self, records: list[Any]) -> None: ...

    def end(self, file: Path, before: Path, keep: int) -> None:
        """Write `file`: the first `keep` records of the file `before`, then those collected."""

    def discard(self) -> None:
        """Forget what was collected. Nothing happens after `end`."""


class _TopicWriter:
    """Exports one topic."""

    def __init__(
        self,
        settings: Settings,
        kafka: KafkaLogs,
        manifest: Manifest,
        directory: Path,
        name: ContractTopic,
        topic: TopicExport,
    ) -> None:
        self._zone = settings.zone
        self._kafka = kafka
        self._manifest = manifest
        self._directory = directory
        self._name = name
        self._real = settings.topics.name(name)
        self._topic = topic
        self._new_holes: list[str] = []
        self.written = 0

    def notes(self, wanted: TopicExport) -> Iterator[str]:
        """Yield what the files don't hold although somebody might expect it. `wanted`: what was
        asked for this time."""
        for hole in self._new_holes:
            yield f"Kafka had deleted offsets {hole} before they were exported"
        until = self._topic.until
        if until is not None and until != wanted.until:
            end = local_datetime(until * 1000, self._zone).isoformat(timespec="seconds")
            yield (
                f"the range still ends at {end}, as in the first export into {self._directory}: "
                "export what came since without --until, into another directory"
            )

    def run(self, shown: Progress | None) -> None:
        """Export up to the logs' present ends."""
        count = self._kafka.counts().get(self._real)
        if count is None:
            raise CommandError(
                f"there is no topic {self._real}: check DIALWATCH_TOPIC_PREFIX, or create what is "
                "missing with `dialwatch topics create`"
            )
        tps = [TP(self._real, number) for number in range(count)]
        bounds = self._kafka.bounds(tps)
        if self._name == ContractTopic.ACCOUNTS:
            # Compaction takes deletions too: an account whose deletion was never seen would stay.
            self._topic.partitions.clear()
        starts = self._starts(tps, bounds)
        logs = {tp: PartitionLog(tp, Source(self._real, _fold_nothing)) for tp in tps}
        whole = self._kafka.begin(logs.values(), starts)
        bar = None if shown is None else shown.add_task(self._name.value, total=whole)
        with ExitStack() as stack:
            parts = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=_PARTS, dir=self._directory))
            )
            writers = {tp: _LogWriter(self, tp.partition, parts) for tp in tps}
            for writer in writers.values():
                stack.callback(writer.discard)
            open_logs = [log for log in logs.values() if not log.is_ended]
            while open_logs:
                # One partition at a time: then few files are open, and the others' fetches wait.
                log = open_logs[0]
                self._kafka.fill([log])
                if log.at is not None:
                    records = log.take(1 << 30, FOREVER)
                    is_over = writers[log.tp].take(records)
                    log.is_ended = log.is_ended or is_over
                    if shown is not None and bar is not None:
                        shown.advance(bar, len(records))
                if log.is_ended:
                    writers[log.tp].end(bounds[log.tp][1])
                    open_logs.remove(log)
            for tp in tps:
                writers[tp].end(bounds[tp][1])
        self.save()
        if self._name == ContractTopic.ACCOUNTS:
            self._delete_former()

    def _starts(self, tps: list[TP], bounds: dict[TP, tuple[int, int]]) -> dict[TP, int]:
        """Return the first offset to read of each partition, and note it in the manifest."""
        since = self._topic.since
        at = self._kafka.offsets_at(tps, max(since, 0)) if since is not None else {}
        starts = {}
        for tp in tps:
            begin, end = bounds[tp]
            known = self._topic.partitions.get(str(tp.partition))
            if known is None:
                start = begin
                if since is not None:
                    found = at[tp]
                    start = end if found is None else max(found, begin)
                known = self._topic.partitions[str(tp.partition)] = LogExport(
                    start, start, end, begin
                )
            elif end < known.next:
                raise CommandError(
                    f"{tp.topic}-{tp.partition} ends before what {self._directory} holds of it: "
                    "the topic was made anew; export into another directory"
                )
            lacking = [] if known.is_over else [(known.next, end)]
            for day in [day for day in known.days if not self._file(tp.partition, day).exists()]:
                # A file that somebody has deleted, perhaps a broken one, is written again.
                file = known.days.pop(day)
                known.next = min(known.next, file.first)
                lacking.append((file.first, file.last + 1))
            for first, stop in lacking:
                if first < begin and first < stop:
                    hole = first, min(begin, stop)
                    known.holes.append(hole)
                    self._new_holes.append(f"{first} to {hole[1] - 1} of partition {tp.partition}")
            known.next = max(known.next, begin)
            known.end = end
            starts[tp] = known.next
        return starts

    def _delete_former(self) -> None:
        """Delete the files of a former export in which no record of this one lies."""
        present = {
            self._file(int(number), day)
            for number, log in self._topic.partitions.items()
            for day in log.days
        }
        for (topic, _), files in find_files(self._directory).items():
            if topic == self._name:
                for file in set(files) - present:
                    file.unlink()

    def day_of(self, timestamp: int) -> tuple[str, int, int]:
        """Return the local day of a timestamp (ms), and the timestamps of its begin and end."""
        return _day_of(timestamp, self._zone)

    def in_range(self, records: list[Any]) -> list[Any]:
        """Return the records in the range that was asked for."""
        since, until = self._topic.since, self._topic.until
        if since is not None:
            records = [one for one in records if one.timestamp >= since]
        if until is not None:
            records = [one for one in records if one.timestamp < until]
        return records

    @property
    def until(self) -> int | None:
        return self._topic.until

    def log_export(self, partition: int) -> LogExport:
        return self._topic.partitions[str(partition)]

    def day_writer(self, parts: Path, partition: int) -> "_DayWriter":
        """Return the writer of a day's file."""
        if self._manifest.format == "parquet":
            return _ParquetDay(parts, self._name.value, partition)
        return _LinesDay(parts, self._name.value, partition)

    def _file(self, partition: int, day: str) -> Path:
        return day_path(self._directory, self._name.value, partition, day, self._manifest.format)

    def put_away(
        self, partition: int, day: str, writer: "_DayWriter", before: DayFile | None
    ) -> None:
        """Write a day's file, or extend it. After an interruption the file may hold more than the
        manifest says; those records are read again now. Raises CommandError where it holds less.
        """
        file = self._file(partition, day)
        if before is not None:
            check_whole(file, before)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.part")
        try:
            writer.end(beside, file, before.records if before is not None else 0)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the manifest."""
        file = self._directory / MANIFEST
        beside = file.with_name(f".{MANIFEST}.part")
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(self._manifest)))
        beside.replace(file)


class _LogWriter:
    """Exports one partition into its days' files."""

    def __init__(self, topic: _TopicWriter, partition: int, parts: Path) -> None:
        self._topic = topic
        self._partition = partition
        self._parts = parts
        self._known = topic.log_export(partition)
        self._position = self._known.next
        self._open: dict[str, tuple[_DayWriter, DayFile, int]] = {}
        """Day → its writer, the manifest's entry for its file, and when it is complete (ms)."""

    def take(self, records: list[Any]) -> bool:
        """Write records that were read. Return whether the end of the range was reached."""
        self._position = records[-1].offset + 1
        # The lowest of a whole read: one record with a clock that is fast ends nothing.
        latest = min(one.timestamp for one in records)
        wanted = self._topic.in_range(records)
        begin = 0
        while begin < len(wanted):
            day, start, end = self._topic.day_of(wanted[begin].timestamp)
            stop = begin
            while stop < len(wanted) and start <= wanted[stop].timestamp < end:
                stop += 1
            self._add(day, end, wanted[begin:stop])
            begin = stop
        over = [day for day, (_, _, end) in self._open.items() if latest >= end + _LATE_MS]
        for day in over:
            self._put_away(day)
        if over:
            self._save()
        until = self._topic.until
        is_over = until is not None and latest >= until + _LATE_MS
        self._known.is_over = self._known.is_over or is_over
        return is_over

    def end(self, log_end: int) -> None:
        """Write the files of all days that are still open."""
        if self._known.next >= log_end and not self._open:
            return
        for day in list(self._open):
            self._put_away(day)
        self._position = max(self._position, log_end)
        self._save()

    def discard(self) -> None:
        """Forget the days that are still open, after a failure."""
        for writer, _, _ in self._open.values():
            writer.discard()

    def _add(self, day: str, end: int, records: list[Any]) -> None:
        before = self._known.days.get(day)
        if before is not None:
            # A day's file may hold later records than the offset up to which all were exported.
            records = [one for one in records if one.offset > before.last]
            if not records:
                return
        if day not in self._open:
            writer = self._topic.day_writer(self._parts, self._partition)
            self._open[day] = (writer, DayFile(0, records[0].offset, 0), end)
        writer, file, _ = self._open[day]
        writer.add(records)
        file.records += len(records)
        file.last = records[-1].offset

    def _put_away(self, day: str) -> None:
        writer, file, _ = self._open[day]
        before = self._known.days.get(day)
        self._topic.put_away(self._partition, day, writer, before)
        del self._open[day]
        self._topic.written += file.records
        if before is not None:
            file = DayFile(before.records + file.records, before.first, file.last)
        self._known.days[day] = file

    def _save(self) -> None:
        unsaved = [file.first for _, file, _ in self._open.values()]
        self._known.next = min([self._position, *unsaved])
        self._topic.save()


class _ParquetDay:
    """A day's records as Parquet."""

    def __init__(self, parts: Path, topic: str, partition: int) -> None:
        self._polars = load_polars()
        self._groups = GroupsWriter(parts)
        self._topic, self._partition = topic, partition
        self._waiting: list[Any] = []

    def add(self, records: list[Any]) -> None:
        self._waiting += records
        while len(self._waiting) >= ROW_GROUP:
            self._flush(self._waiting[:ROW_GROUP])
            del self._waiting[:ROW_GROUP]

    def end(self, file: Path, before: Path, keep: int) -> None:
        if self._waiting:
            self._flush(self._waiting)
        self._groups.end(file, before, keep)

    def discard(self) -> None:
        self._groups.discard()

    def _flush(self, records: list[Any]) -> None:
        columns = {
            "topic": [self._topic] * len(records),
            "partition": [self._partition] * len(records),
            "offset": [one.offset for one in records],
            "timestamp": [one.timestamp for one in records],
            "key": [one.key for one in records],
            "value": [one.value for one in records],
            "headers": self._headers(records),
        }
        self._groups.add(self._polars.DataFrame(columns, schema=export_schema()))

    def _headers(self, records: list[Any]) -> Any:
        """Return the column of headers: polars takes twenty times as long for lists of dicts."""
        polars = self._polars
        header = export_schema()["headers"]
        if not any(one.headers for one in records):
            return polars.Series([None] * len(records), dtype=header).fill_null([])
        places, keys, values = [], [], []
        for place, one in enumerate(records):
            for key, value in one.headers:
                places.append(place)
                keys.append(key)
                values.append(value)
        given = polars.DataFrame(
            {"place": places, "key": keys, "value": values},
            schema={"place": polars.Int64, "key": polars.String, "value": polars.Binary},
        )
        lists = given.group_by("place").agg(headers=polars.struct("key", "value"))
        every = polars.DataFrame({"place": range(len(records))}, schema={"place": polars.Int64})
        joined = every.join(lists, on="place", how="left", maintain_order="left")
        return joined["headers"].cast(header).fill_null([])


class _LinesDay:
    """A day's records as JSON lines."""

    def __init__(self, parts: Path, topic: str, partition: int) -> None:
        number, name = tempfile.mkstemp(dir=parts)
        self._out: BinaryIO = os.fdopen(number, "wb")
        self._file = Path(name)
        self._topic, self._partition = topic, partition
        self._encode = msgspec.json.Encoder().encode

    def add(self, records: list[Any]) -> None:
        for one in records:
            line = Line(
                self._topic,
                self._partition,
                one.offset,
                one.timestamp,
                to_text(one.key),
                to_text(one.value),
                [Header(key, to_text(value)) for key, value in one.headers],
            )
            self._out.write(self._encode(line) + b"\n")

    def end(self, file: Path, before: Path, keep: int) -> None:
        self._out.close()
        with file.open("wb") as out, self._file.open("rb") as added:
            if keep:
                with before.open("rb") as lines:
                    out.writelines(islice(lines, keep))
            shutil.copyfileobj(added, out, 1 << 20)
        self._file.unlink()

    def discard(self) -> None:
        self._out.close()


def _day_of(timestamp: int, zone: tzinfo) -> tuple[str, int, int]:
    """Return the local day of a timestamp (ms), and the timestamps of its begin and end. The
    calendar's first and last day have all timestamps before and after them."""
    local = local_datetime(timestamp * 1000, zone)
    day = local.date()
    begin, end = -_ENDLESS, _ENDLESS
    if day > date.min:
        midnight = datetime(day.year, day.month, day.day, tzinfo=local.tzinfo)
        begin = to_instant(midnight) // 1000
    if day < date.max:
        following = day + timedelta(days=1)
        midnight = datetime(following.year, following.month, following.day, tzinfo=local.tzinfo)
        end = to_instant(midnight) // 1000
    return day.isoformat(), begin, end


def _fold_nothing(_: Chunk) -> None:
    """Do nothing: records are exported unchanged."""

"""Reading an export: what isn't there is said, and what isn't whole isn't read. No Kafka here."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from app.analysis.expansion import added_partitions
from app.analysis.files import (
    MANIFEST,
    DayFile,
    FileFormat,
    FileLogs,
    Header,
    Line,
    LogExport,
    Manifest,
    TopicExport,
    day_path,
    to_text,
)
from app.analysis.parquet import GroupsWriter, export_schema
from app.analysis.partition_logs import FileRecord, PartitionLog
from app.errors import CommandError
from app.operations.moved import MOVED
from streams.engine.order import FOREVER
from streams.engine.types import TP, Source
from streams.records import encode
from streams.topics import ContractTopic, Topics

TOPICS = Topics("p.", "group", 2)
DAYS = ("2026-11-16", "2026-11-17")
A_DAY = 5
INPUTS = ("call-records", "recharges", "accounts", "ticks", "announcements", "notifications")
FORMATS: list[FileFormat] = ["parquet", "jsonl"]


def write_day(
    directory: Path, topic: str, partition: int, day: str, format_: FileFormat, offsets: list[int]
) -> Path:
    file = day_path(directory, topic, partition, day, format_)
    file.parent.mkdir(parents=True, exist_ok=True)
    if format_ == "jsonl":
        lines = [Line(topic, partition, offset, offset, "k", "v") for offset in offsets]
        file.write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    else:
        rows = [(topic, partition, offset, offset, b"k", b"v", []) for offset in offsets]
        pl.DataFrame(rows, schema=export_schema(), orient="row").write_parquet(file)
    return file


def write_export(directory: Path, format_: FileFormat = "jsonl") -> Manifest:
    """Write two partitions of each topic, two days with five records each."""
    manifest = Manifest(format_, "Asia/Shanghai")
    for topic in INPUTS:
        logs = manifest.topics[topic] = TopicExport()
        for partition in range(2):
            log = logs.partitions[str(partition)] = LogExport(next=10, end=10)
            for number, day in enumerate(DAYS):
                first = number * A_DAY
                offsets = list(range(first, first + A_DAY))
                write_day(directory, topic, partition, day, format_, offsets)
                log.days[day] = DayFile(A_DAY, first, offsets[-1])
    save(directory, manifest)
    return manifest


def save(directory: Path, manifest: Manifest) -> None:
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def missing(directory: Path) -> list[str]:
    return FileLogs(directory, TOPICS, needed="call-records").missing()


def read(directory: Path, topic: str = "call-records", partition: int = 0) -> list[int]:
    """Return the offsets that a replay reads."""
    logs = FileLogs(directory, TOPICS)
    log = PartitionLog(TP(f"p.{topic}", partition), Source(f"p.{topic}", lambda _: None))
    logs.begin([log])
    offsets: list[int] = []
    while not log.is_ended:
        logs.fill([log])
        if log.at is not None:
            offsets += [one.offset for one in log.take(1 << 30, FOREVER)]
    return offsets


def test_a_whole_export_lacks_nothing(tmp_path: Path) -> None:
    manifest = write_export(tmp_path)
    assert missing(tmp_path) == []
    # Nor where a partition, or a topic, had no records.
    for topic, partition in (("call-records", 1), ("announcements", 0), ("announcements", 1)):
        shutil.rmtree(tmp_path / topic / str(partition))
        manifest.topics[topic].partitions[str(partition)] = LogExport(next=7, end=7)
    save(tmp_path, manifest)
    assert missing(tmp_path) == []


def test_each_partition_whose_files_are_gone_is_named(tmp_path: Path) -> None:
    write_export(tmp_path)
    for gone in ("call-records/0", "accounts/1", "ticks/1", "recharges/1", "notifications/0"):
        shutil.rmtree(tmp_path / gone)
    shutil.rmtree(tmp_path / "announcements")
    (tmp_path / f"call-records/1/{DAYS[0]}.jsonl").unlink()
    assert sorted(line.partition(":")[0] for line in missing(tmp_path)) == [
        "the export has no accounts of partitions 1",
        "the export has no call-records of partitions 0",
        "the export has no recharges of partitions 1",
        "the export has no records of announcements",
        "the export has no ticks of partitions 1",
        f"the export of call-records lacks files of {DAYS[0]}",
    ]


def test_what_kafka_had_deleted_is_said(tmp_path: Path) -> None:
    manifest = write_export(tmp_path)
    logs = manifest.topics["ticks"].partitions
    logs["1"].log_begin = 100
    logs["0"].holes = [(10, 20), (30, 31)]
    manifest.topics["accounts"].partitions["0"].log_begin = 9  # compaction does that
    save(tmp_path, manifest)
    beginning, hole = missing(tmp_path)
    assert beginning.startswith("the beginning of ticks was deleted before it was exported (par")
    assert "(partitions 1)" in beginning
    assert "lacks offsets 10 to 19 of partition 0, 30 to 30 of partition 0: Kafka had" in hole


@pytest.mark.parametrize("format_", FORMATS)
def test_parts_without_a_manifest_say_where_they_begin(tmp_path: Path, format_: FileFormat) -> None:
    write_export(tmp_path, format_)
    (tmp_path / MANIFEST).unlink()
    assert missing(tmp_path) == []
    for topic in ("call-records", "accounts"):
        (tmp_path / topic / f"1/{DAYS[0]}.{format_}").unlink()
    shutil.rmtree(tmp_path / "ticks/0")
    ticks, calls = missing(tmp_path)
    assert ticks == "the export has no ticks of partitions 0"
    assert calls.startswith("what there is of call-records begins at offset 5 of partition 1:")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("offsets", "why"),
    [
        ([0, 1, 2], "it holds 3 records of 5"),
        ([], "it holds 0 records of 5"),
        ([0, 2, 1, 3, 4], "aren't in the order"),
        ([0, 1, 1, 3, 4], "aren't in the order"),
    ],
)
def test_a_file_with_less_or_in_another_order_isnt_read(
    tmp_path: Path, format_: FileFormat, offsets: list[int], why: str
) -> None:
    write_export(tmp_path, format_)
    assert read(tmp_path) == list(range(10))
    file = write_day(tmp_path, "call-records", 0, DAYS[0], format_, offsets)
    with pytest.raises(CommandError, match="is no whole export") as told:
        read(tmp_path)
    assert str(file) in str(told.value)
    assert why in str(told.value)
    assert read(tmp_path, partition=1) == list(range(10))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_may_hold_more_than_was_noted(tmp_path: Path, format_: FileFormat) -> None:
    write_export(tmp_path, format_)
    write_day(tmp_path, "call-records", 0, DAYS[1], format_, list(range(5, 12)))
    assert read(tmp_path) == list(range(12))


@pytest.mark.parametrize("format_", FORMATS)
def test_an_empty_file_and_records_that_are_there_twice_are_named(
    tmp_path: Path, format_: FileFormat
) -> None:
    write_day(tmp_path, "call-records", 0, DAYS[0], format_, [0, 2, 4])
    write_day(tmp_path, "call-records", 0, DAYS[1], format_, [1, 3, 5])
    assert read(tmp_path) == list(range(6))
    write_day(tmp_path, "call-records", 0, DAYS[1], format_, [1, 4, 5])
    with pytest.raises(CommandError, match="offset 4 is in several of"):
        read(tmp_path)
    write_day(tmp_path, "call-records", 0, DAYS[1], format_, [])
    with pytest.raises(CommandError, match=rf"{DAYS[1]}.{format_} is no whole export"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("key", ["k"] * 5, "key is String, not Binary"),
        ("value", ["v"] * 5, "value is String, not Binary"),
        ("offset", list("01234"), "offset is String, not Int64"),
        ("timestamp", [1, 2, None, 4, 5], "timestamp is null in some rows"),
        ("timestamp", pl.Series([0] * 5).cast(pl.Datetime("ms")), "timestamp is Datetime"),
        ("partition", [None] * 5, "partition is Null, not Int32"),
        ("topic", [1] * 5, "topic is Int64, not String"),
    ],
)
def test_columns_of_other_types_are_told(
    tmp_path: Path, column: str, values: Any, why: str
) -> None:
    write_export(tmp_path, "parquet")
    file = tmp_path / f"call-records/0/{DAYS[0]}.parquet"
    frame = pl.read_parquet(file)
    frame.with_columns(pl.Series(column, values)).write_parquet(file)
    with pytest.raises(CommandError, match="isn't of an export") as told:
        read(tmp_path)
    assert str(file) in str(told.value)
    assert why in str(told.value)


def test_integers_of_another_width_and_nulls_alone_are_read(tmp_path: Path) -> None:
    """As other tools write them."""
    file = write_day(tmp_path, "ticks", 0, DAYS[0], "parquet", [0, 1])
    frame = pl.read_parquet(file).with_columns(
        pl.col("partition").cast(pl.Int64), pl.col("offset").cast(pl.UInt32), key=None
    )
    assert frame.schema["key"] == pl.Null
    frame.write_parquet(file)
    assert read(tmp_path, "ticks") == [0, 1]


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Let writing fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_is_one_line_with_the_file_s_name(tmp_path: Path) -> None:
    writer = GroupsWriter(tmp_path)
    frame = pl.DataFrame({"value": [f"{number:x}" * 50 for number in range(20_000)]})
    with longest_file(1000), pytest.raises(CommandError, match=r"can't write .*0\.parquet: "):
        writer.add(frame)
    writer.discard()
    writer = GroupsWriter(tmp_path)
    writer.add(frame)
    with longest_file(1000), pytest.raises(CommandError, match=r"can't write .*whole\.parquet: "):
        writer.end(tmp_path / "whole.parquet")
    writer.discard()


def test_only_what_is_read_is_said_to_be_missing(tmp_path: Path) -> None:
    """An export may hold all topics; a replay folds five, and is held against one more."""
    manifest = write_export(tmp_path)
    for topic in ContractTopic:
        manifest.topics[topic.value] = TopicExport(
            partitions={"0": LogExport(next=5, end=5, log_begin=2)}
        )
    save(tmp_path, manifest)
    folded = {"call-records", "recharges", "ticks", "announcements"}
    logs = FileLogs(tmp_path, TOPICS)
    begun = [line for line in logs.missing() if line.startswith("the beginning of")]
    assert {line.split()[3] for line in begun} == folded
    logs.begin([PartitionLog(TP("p.notifications", 0), Source("p.notifications", lambda _: None))])
    (line,) = [line for line in logs.missing() if "beginning of notifications" in line]
    assert line.endswith("what was told before it counts as only_replay")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("has_moved", [True, False])
def test_an_export_tells_which_partitions_an_expansion_added(
    tmp_path: Path, format_: FileFormat, *, has_moved: bool
) -> None:
    headers = [(MOVED, b"1")] if has_moved else [("trace", None)]
    write_records(tmp_path, format_, "accounts", 0, [FileRecord(7, 0, b"k", None, tuple(headers))])
    for partition, at in enumerate((0, 60_000)):
        tick = FileRecord(0, at, None, b"{}")
        write_records(tmp_path, format_, "ticks", partition, [tick])
    found = added_partitions(FileLogs(tmp_path, TOPICS), TOPICS)
    assert found == ({1: 60_000} if has_moved else {})


def test_accounts_without_headers_are_read_and_commands_are_not(tmp_path: Path) -> None:
    for topic in ("accounts", "notifications"):
        write_records(tmp_path, "parquet", topic, 0, [FileRecord(7, 0, b"k", b"{}")])
        file = day_path(tmp_path, topic, 0, DAYS[0], "parquet")
        pl.read_parquet(file).drop("headers").write_parquet(file)
    logs = FileLogs(tmp_path, TOPICS)
    accounts, commands = (
        PartitionLog(TP(name, 0), Source(name, lambda _: None))
        for name in (TOPICS.accounts, TOPICS.notifications)
    )
    logs.begin([accounts, commands])
    logs.fill([accounts])
    assert [(one.offset, one.headers) for one in accounts.take(9, FOREVER)] == [(7, ())]
    with pytest.raises(CommandError, match="headers is missing"):
        logs.fill([commands])


def write_records(
    directory: Path, format_: FileFormat, topic: str, partition: int, records: list[FileRecord]
) -> None:
    file = day_path(directory, topic, partition, DAYS[0], format_)
    file.parent.mkdir(parents=True)
    if format_ == "jsonl":
        lines = [
            Line(topic, partition, one.offset, one.timestamp, to_text(one.key), to_text(one.value),
                 [Header(name, to_text(value)) for name, value in one.headers])
            for one in records
        ]  # fmt: skip
        file.write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    else:
        rows = [
            (topic, partition, one.offset, one.timestamp, one.key, one.value,
             [{"key": name, "value": value} for name, value in one.headers])
            for one in records
        ]  # fmt: skip
        pl.DataFrame(rows, schema=export_schema(), orient="row").write_parquet(file)

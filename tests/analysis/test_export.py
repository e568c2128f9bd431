"""An export holds the records as they lie in Kafka; a replay of it is a replay of the topics."""

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher

from app.analysis import replay
from app.analysis.files import (
    DayFile,
    FileLogs,
    LogExport,
    Manifest,
    TopicExport,
    check_whole,
    read_manifest,
)
from app.analysis.kafka_logs import KafkaLogs
from app.analysis.partition_logs import FileRecord
from app.commands.export import _LogWriter, _TopicWriter, run_export
from app.errors import CommandError, SettingsError
from streams.engine.types import TP
from streams.topics import ContractTopic
from tests.cli.test_commands import dialwatch
from tests.installation import PARTITIONS, Installation, Published
from tests.kafka_admin import delete_before
from tests.replay.test_replay import history
from tests.samples import account, call, recharge

TOPICS = ("call-records", "recharges", "accounts", "ticks", "announcements")
DAY_MS = 24 * 3600 * 1000
NOON = 1_763_460_000_000  # 2025-11-18T18:00:00+08:00
pytestmark = pytest.mark.broker


def run(installation: Installation, *arguments: str | Path) -> Any:
    return dialwatch(
        *map(str, arguments), directory=installation.directory, variables=installation.variables
    )


async def publish_at(installation: Installation, records: list[tuple[Published, int]]) -> None:
    """Publish with timestamps of one's own, which may be older than what is kept as a rule."""
    for name in {record.topic for record, _ in records}:
        await installation.configure(f"{installation.name}.{name}", {"retention.ms": "-1"})
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers)
    await producer.start()
    for (topic, key, value, partition), at in records:
        await producer.send(
            f"{installation.name}.{topic}",
            value if value is None or isinstance(value, bytes) else json.dumps(value).encode(),
            key=key.encode() if isinstance(key, str) else key,
            partition=partition,
            timestamp_ms=at,
            headers=[("trace", b"\xff\x00"), ("trace", b"2")],
        )
    await producer.stop()


def exported(directory: Path, topic: str) -> pl.DataFrame:
    return pl.read_parquet(directory / topic / "**/*.parquet").sort("partition", "offset")


async def test_a_replay_of_an_export_is_the_replay_of_the_topics(
    installation: Installation, tmp_path: Path
) -> None:
    names = ("acme", "bob", "carol")
    customers = [account(name, intent_classes=["A"], balance_threshold="50.00") for name in names]
    records, rng = history(), random.Random(1)
    # Over five days, and over midnight there and back.
    times = sorted(NOON + rng.randrange(5 * DAY_MS) for _ in records)
    times = [at - rng.randrange(3_000_000) for at in times]
    await publish_at(installation, [(one, NOON) for one in customers])
    await publish_at(installation, list(zip(records, times, strict=True)))

    topics = run(installation, "replay", "--run-length", "50,100")
    assert topics.returncode == 0, topics.stderr
    assert len(topics.stdout.splitlines()) > 50
    for format_ in ("parquet", "jsonl"):
        to = tmp_path / format_
        made = run(installation, "export", *TOPICS, "--to", to, "--format", format_)
        assert made.returncode == 0, made.stderr
        for jobs in ("1", "2"):
            files = run(
                installation, "replay", "--files", to, "--run-length", "50,100", "--jobs", jobs
            )
            assert files.stdout == topics.stdout, files.stderr
            assert "1 invalid records" in files.stderr

    days = {file.stem for file in (tmp_path / "parquet/call-records").rglob("*.parquet")}
    assert len(days) == 6
    frame = exported(tmp_path / "parquet", "call-records")
    lying = sorted(
        await installation.read("call-records"), key=lambda one: (one.partition, one.offset)
    )
    assert frame.columns == [
        "topic", "partition", "offset", "timestamp", "key", "value", "headers"
    ]  # fmt: skip
    assert frame.schema["timestamp"] == pl.Int64
    assert frame["value"].to_list() == [one.value for one in lying]
    assert frame["timestamp"].to_list() == [one.timestamp for one in lying]
    assert frame["headers"][0].to_list() == [
        {"key": "trace", "value": b"\xff\x00"}, {"key": "trace", "value": b"2"}
    ]  # fmt: skip

    # A part says what is missing.
    shutil.rmtree(tmp_path / "parquet/ticks")
    shutil.rmtree(tmp_path / "parquet/call-records/0")
    part = run(installation, "replay", "--files", tmp_path / "parquet")
    assert part.returncode == 0
    assert "no records of ticks" in part.stderr
    assert "no call-records of partitions 0" in part.stderr


async def test_topics_without_records_were_exported_too(
    installation: Installation, tmp_path: Path
) -> None:
    """An installation that has no calls yet, and whose worker has told nobody of anything."""
    to = tmp_path / "out"
    await installation.publish([account("acme"), recharge("acme", "r-1")])
    made = run(installation, "export", *TOPICS, "notifications", "--to", to)
    assert made.returncode == 0, made.stderr
    assert not (to / "call-records").exists()
    for arguments in (["--jobs", "2"], ["--against", "notifications"]):
        topics = run(installation, "replay", *arguments)
        assert topics.returncode == 0, topics.stderr
        assert len(topics.stdout.splitlines()) == 3  # channels
        files = run(installation, "replay", "--files", to, *arguments)
        assert (files.returncode, files.stdout) == (0, topics.stdout), files.stderr
        assert files.stderr == topics.stderr
    assert "3 only_replay" in files.stderr
    frame = await asyncio.to_thread(replay, to, settings=installation.settings())
    assert frame["scenario"].to_list() == ["recharge_received"] * 3

    # What was never exported is another thing.
    shutil.rmtree(to)
    run(installation, "export", *TOPICS[1:], "--to", to)
    lacking = run(installation, "replay", "--files", to)
    assert lacking.returncode == 1
    there = "accounts, announcements, recharges, ticks"
    assert f"{to} holds no export of call-records ({there})" in lacking.stderr
    run(installation, "export", "call-records", "--to", to)
    lacking = run(installation, "replay", "--files", to, "--against", "notifications")
    assert lacking.returncode == 1
    topic = installation.topics.notifications
    assert lacking.stderr.splitlines()[-1].endswith(
        f"there is no {topic} to hold the replay against: export it too"
    )


async def test_what_is_complete_isnt_written_again(
    installation: Installation, tmp_path: Path
) -> None:
    first = [(call("acme", index), NOON + index * DAY_MS) for index in range(3)]
    await publish_at(installation, first)
    to = tmp_path / "out"
    assert run(installation, "export", "call-records", "--to", to).returncode == 0
    before = {file: file.stat().st_mtime_ns for file in to.rglob("*.parquet")}
    assert len(before) == 3
    again = run(installation, "export", "call-records", "--to", to)
    assert "0 records written, 3 held" in again.stderr
    more = [(call("acme", 3), NOON + 2 * DAY_MS + 1), (call("acme", 4), NOON + 9 * DAY_MS)]
    await publish_at(installation, [*more, (call("acme", 5), NOON)])  # that one is very late
    third = run(installation, "export", "call-records", "--to", to)
    assert "3 records written, 6 held" in third.stderr
    after = {file: file.stat().st_mtime_ns for file in to.rglob("*.parquet")}
    assert len(after) == 4
    assert sum(after[file] == at for file, at in before.items()) == 1  # the day in the middle
    assert exported(to, "call-records")["offset"].to_list() == list(range(6))
    files = sorted(one.name for one in to.iterdir())
    assert files == [".lock", "call-records", "export.json"]


async def test_an_export_that_was_cut_off_goes_on(
    installation: Installation, tmp_path: Path
) -> None:
    """What a killed one leaves: whole days, a manifest that knows some of them, and parts."""
    records = [(call("acme", index), NOON + index * DAY_MS // 4) for index in range(20)]
    await publish_at(installation, records)
    to = tmp_path / "out"
    assert run(installation, "export", "call-records", "--to", to).returncode == 0
    manifest = json.loads((to / "export.json").read_bytes())
    (log,) = (
        one for one in manifest["topics"]["call-records"]["partitions"].values() if one["days"]
    )
    days = sorted(log["days"])
    for day in days[2:]:
        del log["days"][day]
        next(to.rglob(f"{day}.parquet")).unlink()
    log["next"] = log["days"][days[1]]["first"]  # day two was put away, and its beginning is sure
    (to / "export.json").write_text(json.dumps(manifest))
    (to / ".export-left").mkdir()
    said = run(installation, "replay", "--files", to)
    assert "cut off" in said.stderr
    assert run(installation, "export", "call-records", "--to", to).returncode == 0
    assert exported(to, "call-records")["offset"].to_list() == list(range(20))
    assert not (to / ".export-left").exists()


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
async def test_each_record_is_written_once_whatever_was_known_and_whatever_was_deleted(
    installation: Installation, tmp_path: Path, format_: str
) -> None:
    records = [(call("acme", index), NOON + index * DAY_MS // 4) for index in range(12)]
    await publish_at(installation, records[:10])
    to = tmp_path / "out"
    export = ("export", "call-records", "--to", to, "--format", format_)

    def offsets() -> list[int]:
        if format_ == "parquet":
            return exported(to, "call-records")["offset"].to_list()
        lines = [one.read_text() for one in sorted((to / "call-records").rglob("*.jsonl"))]
        return [json.loads(line)["offset"] for line in "".join(lines).splitlines()]

    assert run(installation, *export).returncode == 0
    known = (to / "export.json").read_bytes()
    days = sorted((to / "call-records").rglob(f"*.{format_}"))
    assert len(days) == 4
    # Killed after it had put away what came meanwhile, and before it had noted it.
    await publish_at(installation, records[10:])
    assert run(installation, *export).returncode == 0
    assert offsets() == list(range(12))
    (to / "export.json").write_bytes(known)
    assert run(installation, *export).returncode == 0
    assert offsets() == list(range(12))
    # The same where it had noted nothing yet.
    (to / "export.json").unlink()
    assert run(installation, *export).returncode == 0
    assert offsets() == list(range(12))
    # A broken file is deleted and exported again, as replay says.
    days[1].unlink()
    part = run(installation, "replay", "--files", to)
    assert f"lacks files of {days[1].stem}" in part.stderr
    assert run(installation, *export).returncode == 0
    assert offsets() == list(range(12))
    assert "lacks" not in run(installation, "replay", "--files", to).stderr


async def test_a_range_holds_the_records_with_such_timestamps(
    installation: Installation, tmp_path: Path
) -> None:
    records = [(call("acme", index), NOON + index * 1000) for index in range(10)]
    records[4] = (call("acme", 4), NOON + 7500)  # clocks differ
    await publish_at(installation, records)
    since, until = "2025-11-18T18:00:03+08:00", "2025-11-18T18:00:07+08:00"
    to = tmp_path / "some"
    asked = ("export", "call-records", "--to", to, "--since", since, "--until", until)
    made = run(installation, *asked)
    assert made.returncode == 0, made.stderr
    frame = exported(to, "call-records")
    assert frame["timestamp"].to_list() == [NOON + s * 1000 for s in (3, 5, 6)]
    assert "only a range of call-records" in run(installation, "replay", "--files", to).stderr
    other = run(installation, "export", "call-records", "--to", to)
    assert other.returncode == 2
    assert "another range" in other.stderr
    # So long ago is another instant each time, and the same range where an export goes on.
    asked = ("export", "call-records", "--to", tmp_path / "ago", "--since", "-5000d")
    assert run(installation, *asked).returncode == 0
    await asyncio.sleep(0.01)
    again = run(installation, *asked)
    assert again.returncode == 0, again.stderr
    assert "0 records written, 10 held" in again.stderr


async def test_tombstones_and_what_is_no_text_come_through(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.publish(
        [
            account("acme"),
            Published("accounts", "acme", None),
            Published("accounts", b"\xff", b"\xfe"),
        ]
    )
    for format_ in ("parquet", "jsonl"):
        made = run(
            installation, "export", "accounts", "--to", tmp_path / format_, "--format", format_
        )
        assert made.returncode == 0, made.stderr
    rows = exported(tmp_path / "parquet", "accounts").select("key", "value").rows()
    assert {(b"acme", None), (b"\xff", b"\xfe")} < set(rows)
    lines = [
        json.loads(line)
        for file in (tmp_path / "jsonl/accounts").rglob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert len(lines) == 3
    assert {"base64": "/w=="} in [line["key"] for line in lines]
    assert sum(line["value"] is None for line in lines) == 1


def test_what_cant_be_exported_is_one_line(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for arguments, code, word in (
        (("export", "call-record", "--to", tmp_path / "x"), 2, "call-record: is no topic"),
        (("export", "call-records"), 2, "--to"),
        (("export", "call-records", "--to", file), 2, "is a file"),
        (("export", "call-records", "--to", tmp_path / "x", "--since", "yesterday"), 2, "--since"),
        (("export", "call-records", "--to", tmp_path / "y", "--since", "-1h"), 1, "no records"),
        (("replay", "--files", tmp_path / "nowhere"), 1, "no directory"),
        (("replay", "--files", tmp_path), 1, "no export of call-records"),
    ):
        ended = run(installation, *arguments)
        assert ended.returncode == code, (arguments, ended.stderr)
        (line,) = [one for one in ended.stderr.splitlines() if one.startswith("dialwatch:")]
        assert word in line
        assert "Traceback" not in ended.stderr
    assert PARTITIONS > 1


def test_where_a_topic_is_missing_there_is_one_line_and_nothing_left_open(
    installation: Installation, tmp_path: Path
) -> None:
    installation.variables["DIALWATCH_TOPIC_PREFIX"] = "nobody-has-this."
    for arguments, topic in (
        (("replay",), "accounts"),
        (("replay", "--against", "notifications", "--jobs", "2"), "accounts"),
        (("export", "ticks", "--to", tmp_path / "x"), "ticks"),
    ):
        ended = run(installation, *arguments)
        assert (ended.returncode, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert f"there is no topic nobody-has-this.{topic}: check" in line


def test_other_readers_of_a_notebook_s_process_go_on_as_before(installation: Installation) -> None:
    theirs = fetcher.PartitionRecords, fetcher.FetchResult
    logs = KafkaLogs(installation.settings())
    assert (fetcher.PartitionRecords, fetcher.FetchResult) != theirs
    logs.close()
    assert (fetcher.PartitionRecords, fetcher.FetchResult) == theirs


async def export(installation: Installation, to: Path, topic: str, **given: Any) -> None:
    """Export in this process, which is faster than a command."""
    await asyncio.to_thread(run_export, installation.settings(), [topic], to=to, **given)


def missing(installation: Installation, to: Path, topic: str) -> list[str]:
    """Return what a replay of the export says about a topic."""
    said = FileLogs(to, installation.topics).missing()
    return [line for line in said if topic in line and "has no" not in line]


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
async def test_what_kafka_deletes_between_two_exports_is_told(
    installation: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    def calls(*numbers: int) -> list[tuple[Published, int]]:
        return [
            (call("acme", number)._replace(partition=1), NOON + number // 3 * DAY_MS)
            for number in numbers
        ]

    to = tmp_path / "out"

    async def again() -> str:
        await export(installation, to, "call-records", format_=format_)
        return capsys.readouterr().err

    await publish_at(installation, calls(*range(9)))
    await delete_before(installation, {TP(f"{installation.name}.call-records", 1): 2})
    assert "7 records written, 7 held" in await again()
    (beginning,) = missing(installation, to, "call-records")
    assert "the beginning of call-records was deleted" in beginning
    assert "(partitions 1)" in beginning

    await publish_at(installation, calls(*range(9, 15)))
    await delete_before(installation, {TP(f"{installation.name}.call-records", 1): 12})
    said = await again()
    assert "3 records written, 10 held" in said
    assert "Kafka had deleted offsets 9 to 11 of partition 1" in said
    assert "deleted" not in await again()  # but a replay says it still
    _, hole = missing(installation, to, "call-records")
    assert "lacks offsets 9 to 11 of partition 1: Kafka" in hole

    # A day's file that is deleted, of which Kafka has the second half no longer.
    day = sorted((to / "call-records/1").iterdir())[-1]
    await delete_before(installation, {TP(f"{installation.name}.call-records", 1): 14})
    day.unlink()
    said = await again()
    assert "Kafka had deleted offsets 12 to 13 of partition 1" in said
    assert "1 records written, 8 held" in said
    assert (
        "9 to 11 of partition 1, 12 to 13 of partition 1"
        in missing(installation, to, "call-records")[1]
    )


async def test_what_is_deleted_after_the_end_of_a_range_is_no_loss(
    installation: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"until": "2025-11-18T18:00:02+08:00"}
    records = [(call("acme", number)._replace(partition=1), NOON) for number in range(3)]
    later = [(one, NOON + 2 * DAY_MS) for one, _ in records]
    await publish_at(installation, records)
    await export(installation, tmp_path, "call-records", **given)
    await publish_at(installation, later)
    await export(installation, tmp_path, "call-records", **given)
    await publish_at(installation, later)
    await delete_before(installation, {TP(f"{installation.name}.call-records", 1): 8})
    await export(installation, tmp_path, "call-records", **given)
    assert "deleted" not in capsys.readouterr().err
    assert not [one for one in missing(installation, tmp_path, "call-records") if "lacks" in one]


async def test_a_record_from_the_future_ends_no_range(
    installation: Installation, tmp_path: Path
) -> None:
    logs = TopicExport(until=NOON + 1000, partitions={"0": LogExport(end=100)})
    manifest = Manifest("jsonl", "Asia/Shanghai", {"call-records": logs})
    topic = _TopicWriter(
        installation.settings(),
        None,
        manifest,
        tmp_path,
        ContractTopic.CALL_RECORDS,
        logs,  # type: ignore[arg-type] # nothing is read
    )
    writer = _LogWriter(topic, 0, tmp_path)
    late = NOON + 3 * DAY_MS
    reads = [[(0, NOON), (1, late)], [(2, NOON + 1)], [(3, late), (4, late)]]
    ends = [
        writer.take([FileRecord(offset, at, b"k", b"v") for offset, at in one]) for one in reads
    ]
    writer.end(100)
    assert ends == [False, False, True]
    assert logs.records == 2


async def test_accounts_are_exported_anew_so_that_none_stays_that_is_deleted(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.configure(f"{installation.name}.accounts", {"cleanup.policy": "delete"})
    both = [account(name)._replace(partition=0) for name in ("acme", "bob")]
    await publish_at(installation, [(both[0], NOON), (both[1], NOON + DAY_MS)])
    await export(installation, tmp_path, "accounts")
    assert exported(tmp_path, "accounts")["key"].to_list() == [b"acme", b"bob"]
    # Compaction has taken the account, and what said that it is deleted.
    await delete_before(installation, {TP(f"{installation.name}.accounts", 0): 1})
    (tmp_path / "accounts/notes.parquet").touch()
    await export(installation, tmp_path, "accounts")
    assert [file.name for file in (tmp_path / "accounts").rglob("*.parquet")] == [
        "notes.parquet", "2025-11-19.parquet"
    ]  # fmt: skip
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.topics["accounts"].records == 1
    assert missing(installation, tmp_path, "accounts") == []


async def test_a_topic_made_anew_is_another_topic(
    installation: Installation, tmp_path: Path
) -> None:
    records = [(call("acme", number), NOON) for number in range(3)]
    await publish_at(installation, records)
    await export(installation, tmp_path, "call-records")
    await installation.delete_topic("call-records")
    await installation.create_topics()
    await publish_at(installation, records * 2)
    with pytest.raises(CommandError, match="holds records of another topic call-records"):
        await export(installation, tmp_path, "call-records")
    assert exported(tmp_path, "call-records")["offset"].to_list() == [0, 1, 2]
    # Exports of former versions know no id.
    manifest = json.loads((tmp_path / "export.json").read_bytes())
    del manifest["topics"]["call-records"]["topic_id"]
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    await export(installation, tmp_path, "call-records")
    assert exported(tmp_path, "call-records")["offset"].to_list() == list(range(6))


async def test_a_range_that_held_nothing_may_be_widened(
    installation: Installation, tmp_path: Path
) -> None:
    await publish_at(installation, [(call("acme", number), NOON) for number in range(3)])
    with pytest.raises(CommandError, match="widen --since"):
        await export(installation, tmp_path, "call-records", since="-1h")
    await export(installation, tmp_path, "call-records", since="-5000d", format_="jsonl")
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.format, manifest.topics["call-records"].records) == ("jsonl", 3)
    with pytest.raises(SettingsError, match="another range"):
        await export(installation, tmp_path, "call-records", since="-1h", format_="jsonl")


async def test_a_range_up_to_now_says_that_it_doesnt_move(
    installation: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish_at(installation, [(call("acme", 0), NOON)])
    await export(installation, tmp_path, "call-records", until="end")
    assert "still ends" not in capsys.readouterr().err
    await asyncio.sleep(0.01)
    await export(installation, tmp_path, "call-records", until="end")
    assert "the range still ends at 2" in capsys.readouterr().err
    until = {"until": "2026-01-01"}
    for _ in range(2):
        await export(installation, tmp_path / "fixed", "call-records", **until)
    assert "still ends" not in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
async def test_a_file_that_was_shortened_isnt_extended(
    installation: Installation, tmp_path: Path, format_: str
) -> None:
    records = [(call("acme", number), NOON) for number in range(20)]
    await publish_at(installation, records)
    await export(installation, tmp_path, "call-records", format_=format_)
    (file,) = (tmp_path / "call-records").rglob(f"*.{format_}")
    if format_ == "parquet":
        pl.read_parquet(file).head(10).write_parquet(file)
    else:
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:10]))
    left = file.with_name(f".2025-01-01.{format_}.part")
    left.touch()  # by an export that was killed
    await publish_at(installation, records)
    with pytest.raises(CommandError, match=f"{file.name} is no whole export .it holds 10 records"):
        await export(installation, tmp_path, "call-records", format_=format_)
    assert not left.exists()
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    file.unlink()
    await export(installation, tmp_path, "call-records", format_=format_)
    assert check_whole(file, DayFile(40, 0, 39)) == (0, 39)

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

from app.analysis.kafka_logs import KafkaLogs
from tests.cli.test_commands import dialwatch
from tests.installation import PARTITIONS, Installation, Published
from tests.replay.test_replay import history
from tests.samples import account, call

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

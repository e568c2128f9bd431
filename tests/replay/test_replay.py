"""A replay prints what the worker published, and touches nothing."""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.analysis.partition_logs import PartitionLog
from streams.engine.memory import MemoryRecord
from streams.engine.order import next_of
from streams.engine.types import TP, Source
from tests.cli.test_commands import dialwatch
from tests.drive import Drive
from tests.installation import PARTITIONS, Installation, Published
from tests.samples import account, announcement, call, recharge, ticks


def log(topic: str, order: int, *timestamps: int) -> PartitionLog:
    made = PartitionLog(TP(topic, 0), Source(topic, lambda _: None, order, is_timed=True))
    made.is_ended = True
    made.add(
        [MemoryRecord(n, at, None, f"{topic}{at}".encode()) for n, at in enumerate(timestamps)]
    )
    return made


def merged(*logs: PartitionLog) -> list[str]:
    seen: list[str] = []
    while (turn := next_of(logs)) is not None:
        seen += [record.value.decode() for record in turn[0].take(100, turn[1])]
    return seen


def test_a_partition_is_folded_in_the_order_of_time() -> None:
    # Of one millisecond the call goes before the tick.
    merged_ = merged(log("c", 2, 1, 3, 5, 9), log("t", 4, 3, 6))
    assert merged_ == ["c1", "c3", "t3", "c5", "t6", "c9"]


def test_timestamps_that_go_backwards_stop_nothing() -> None:
    assert merged(log("c", 2, 9, 8, 1), log("t", 4, 7, 8, 10)) == [
        "t7",
        "t8",
        "c9",
        "c8",
        "c1",
        "t10",
    ]


def test_announcements_may_have_more_partitions_than_the_others() -> None:
    drive = Drive()
    drive.take([account("acme")])
    said = announcement("up")
    record: Any = MemoryRecord(0, 0, b"up", json.dumps(said.value).encode())
    drive.engine.fold(TP("announcements", 7), [record])
    assert len(drive.commands) == 2


def history() -> list[Published]:
    """All scenarios, repeats and rubbish, over four accounts; a line's calls from one of them."""
    rng = random.Random(7)
    names = ["acme", "bob", "carol", "dave"]
    records = []
    for name in names:
        for index in range(250):
            result = rng.choice("AEW") if index % 120 == 119 else "F"
            line = "broken" if name == "bob" else f"line-{name}"
            if name == "bob":
                result = "W"
            records.append(
                call(name, index, batch_size=250, result=result, line_id=line,
                     balance=f"{100 - index}.00")
            )  # fmt: skip
            if index % 50 == 0:
                records.append(records[-1])
    rng.shuffle(records)
    records.insert(10, Published("call-records", "acme", b"rubbish"))
    records += [recharge(name, f"r-{name}") for name in names]
    records += ticks("2019-01-30T16:00:00+08:00", PARTITIONS)
    records += ticks("2019-01-31T10:00:00+08:00", PARTITIONS)
    records.append(announcement("up"))
    return records


async def live_through(installation: Installation) -> None:
    """Publish `history`, its ticks when all before them is folded, as a clock would; return when
    everything is told."""
    told = history()
    await installation.publish(one for one in told if one.topic != "ticks")
    await installation.fold_all()
    await installation.publish(one for one in told if one.topic == "ticks")
    await installation.fold_all()
    await installation.wait_for(
        "deliveries",
        lambda seen: (
            sum(one["scenario"] == "announcement" for one in seen) == 6
            and sum(one["scenario"] == "account_expiring" for one in seen) == 9
        ),
    )


@pytest.mark.broker
async def test_its_commands_are_those_the_worker_published(
    installation: Installation, tmp_path: Path
) -> None:
    accounts = [
        account(name, intent_classes=["A"], balance_threshold="50.00",
                expires_at="2019-02-03T00:00:00+08:00")
        for name in ("acme", "bob", "carol")
    ]  # fmt: skip
    await installation.publish(accounts)
    worker = installation.worker()
    await live_through(installation)
    worker.stop()
    published = await installation.read_values("notifications")
    before = {name: len(await installation.read(name)) for name in ("notifications", "deliveries")}

    ended = dialwatch("replay", directory=tmp_path, variables=installation.variables)
    assert ended.returncode == 0, ended.stderr
    replayed = [json.loads(line) for line in ended.stdout.splitlines()]
    key = "notification_id"
    assert sorted(replayed, key=lambda one: one[key]) == sorted(published, key=lambda one: one[key])
    assert "1 invalid" in ended.stderr
    after = {name: len(await installation.read(name)) for name in before}
    assert before == after

    # since is inclusive, until exclusive
    at = "2019-01-30T15:52:10+08:00"
    ended = dialwatch(
        "replay", "--since", at, "--until", "2019-01-30T15:52:11+08:00",
        directory=tmp_path, variables=installation.variables,
    )  # fmt: skip
    some = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(some) == sum(one["occurred_at"] == at for one in published)
    ended = dialwatch("replay", "--until", at, directory=tmp_path, variables=installation.variables)
    assert (ended.returncode, ended.stdout) == (0, "")

    # What if the threshold were 50?
    ended = dialwatch(
        "replay", "--run-length", "50", "--scenario", "line_error_run",
        directory=tmp_path, variables=installation.variables,
    )  # fmt: skip
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(lines) == 250 // 50 * 2
    assert {one["cause"]["run_length"] for one in lines} == {50}


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    ended = dialwatch("replay", "--since", "2019-01-30T15:52:10", directory=tmp_path)
    assert ended.returncode == 2
    assert "--since" in ended.stderr


@pytest.mark.broker
def test_a_missing_topic_is_named(installation: Installation, tmp_path: Path) -> None:
    wrong = installation.variables | {"DIALWATCH_TOPIC_PREFIX": "nobody."}
    ended = dialwatch("replay", directory=tmp_path, variables=wrong)
    assert ended.returncode == 1
    assert "nobody." in ended.stderr


@pytest.mark.broker
def test_who_stops_reading_causes_no_traceback(installation: Installation, tmp_path: Path) -> None:
    calls = [call("acme", index, result="F") for index in range(1000)]
    asyncio.run(installation.publish(calls))
    command = [sys.executable, "-m", "app.cli", "replay", "--run-length", "1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=installation.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(30)
    assert b"Traceback" not in said

"""More partitions under an installation that remembers something: killed at every kind of moment,
run again, and nothing is told twice or forgotten."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.engine.outbox import UNFINISHED
from streams.engine.positions import POSITIONS, Position
from streams.engine.types import TP
from streams.topics import partition_of
from tables import state_tables
from tables.state_tables import owner_of
from tests import kafka_admin
from tests.cli.test_commands import dialwatch
from tests.installation import Installation, Published
from tests.samples import account, announcement, call, recharge, ticks

OLD, NEW = 2, 5
ACCOUNTS = [f"a{number}" for number in range(12)]
WRONG = "bad"
"""An account whose records are all invalid, and which belongs elsewhere afterwards."""
BATCH = 8
SUBMITTED = "2019-01-30T14:00:00+08:00"


def failed(account_id: str, index: int) -> Published:
    return call(account_id, index, result="F", batch_size=BATCH, submitted_at=SUBMITTED)


def line_error(account_id: str, index: int) -> Published:
    return call(account_id, index, result="W", line_id="line-9")


def before() -> list[Published]:
    """Half of a run, of a batch, of a line's run for each account; an announcement, money; an end
    that the tick tells of."""
    wishes = {"channels": {"interested_customer": ["inbox"]},
              "expires_at": "2019-02-03T00:00:00+08:00"}  # fmt: skip
    return [
        *(account(one, **wishes) for one in ACCOUNTS),
        *(failed(one, index) for one in ACCOUNTS for index in range(4)),
        *(line_error(one, 0) for one in ACCOUNTS[:4]),
        *(recharge(one, f"r-{one}") for one in ACCOUNTS),
        account(WRONG, phone=1),
        account(WRONG, phone=2),
        announcement("n1"),
        *ticks("2019-01-30T16:00:00+08:00", OLD),
    ]


def after() -> list[Published]:
    """The other halves, and repeats of what was before."""
    return [
        *(recharge(one, f"r-{one}") for one in ACCOUNTS),
        *(failed(one, index) for one in ACCOUNTS for index in range(BATCH)),
        *(line_error(one, 1) for one in ACCOUNTS[:4]),
        announcement("n2"),
        *ticks("2019-01-30T17:00:00+08:00", NEW),
    ]


def inbox(commands: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter(
        (one["scenario"], one["account_id"]) for one in commands if one["channel"] == "inbox"
    )


EXPECTED = Counter(
    {
        **{("recharge_received", one): 1 for one in ACCOUNTS},
        **{("announcement", one): 2 for one in ACCOUNTS},
        **{("account_expiring", one): 1 for one in ACCOUNTS},
        **{("batch_completed", one): 1 for one in ACCOUNTS},
        # 8 F in a row, the run's length is 8; of the first four a W came between.
        **{("unreachable_run", one): 1 for one in ACCOUNTS[4:]},
        # 4 W of the line before, 4 after
        **{("line_error_run", one): 1 for one in ACCOUNTS[:4]},
    }
)


@pytest.fixture
def small(kafka: str, redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    made = Installation(kafka, redis_url, tmp_path)
    made.variables |= {"DIALWATCH_PARTITIONS": str(OLD), "DIALWATCH_RUN_LENGTH": str(BATCH)}
    asyncio.run(made.create_topics())
    yield made
    made.close()


def expand(made: Installation, tmp_path: Path, *arguments: str, **variables: str) -> Any:
    command = ("topics", "expand", "--partitions", str(NEW), *arguments)
    return dialwatch(*command, directory=tmp_path, variables=made.variables | variables)


def settle(made: Installation, is_enough: Any) -> list[dict[str, Any]]:
    return asyncio.run(made.wait_for("notifications", is_enough))


@pytest.mark.broker
def test_an_expansion_that_is_killed_again_and_again_loses_and_repeats_nothing(
    small: Installation, tmp_path: Path
) -> None:
    worker = small.worker()
    asyncio.run(small.publish(before()))
    settle(small, lambda found: len(inbox(found)) >= 2 * len(ACCOUNTS))
    refused = expand(small, tmp_path, "--execute")
    assert refused.returncode == 1
    assert "1 workers of group" in refused.stderr
    worker.stop()
    # What is unread is folded first: a repeat, which nobody is told of.
    asyncio.run(small.publish([failed(ACCOUNTS[0], 0)]))
    planned = expand(small, tmp_path)
    assert planned.returncode == 0
    assert f"{small.topics.calls}\t{OLD}\t{NEW}" in planned.stdout
    assert "nothing was done" in planned.stderr
    # The state has moved, in part; then all of it; then a stray call of an account that moved.
    for point in ("half-produced:2", "before-commit:2", "after-commit:4"):
        cut = expand(small, tmp_path, "--execute", DIALWATCH_TEST_CRASH_AT=point)
        assert cut.returncode == -9, cut.stderr
        half = small.worker(is_started=False)
        half.launch()
        assert half.wait_exit() == 1
        assert "dialwatch topics expand" in half.log.read_text()
    stray = next(
        one
        for one in ACCOUNTS
        if partition_of(one.encode(), OLD) != partition_of(one.encode(), NEW)
    )
    asyncio.run(
        small.publish([failed(stray, 4)._replace(partition=partition_of(stray.encode(), OLD))])
    )
    done = expand(small, tmp_path, "--execute")
    assert done.returncode == 0, done.stderr
    assert f"DIALWATCH_PARTITIONS={NEW}" in done.stderr
    assert "there is nothing to do" in expand(small, tmp_path, "--execute").stderr

    small.variables["DIALWATCH_PARTITIONS"] = str(NEW)
    small.worker()
    small.worker()
    asyncio.run(small.publish(after()))
    settle(small, lambda found: inbox(found).total() >= EXPECTED.total())
    asyncio.run(asyncio.sleep(1.0))
    told = asyncio.run(small.read_values("notifications"))
    assert inbox(told) == EXPECTED
    assert max(Counter(one["notification_id"] for one in told).values()) == 1
    # A new group sees each account once, where it belongs.
    standing: dict[bytes, set[int]] = {}
    for record in asyncio.run(small.read("accounts")):
        places = standing.setdefault(record.key, set())
        (places.discard if record.value is None else places.add)(record.partition)
    everyone = [one.encode() for one in (*ACCOUNTS, WRONG)]
    assert standing == {one: {partition_of(one, NEW)} for one in everyone}
    # What was only moved is no younger than its dead letter.
    planned = dialwatch("dlq", "redrive", directory=tmp_path, variables=small.variables)
    places = partition_of(WRONG.encode(), OLD), partition_of(WRONG.encode(), NEW)
    assert places[0] != places[1]
    said = sorted(
        (places.index(row["partition"]), row["offset"], row["action"])
        for row in map(json.loads, planned.stdout.splitlines())
    )
    assert [(which, action) for which, _, action in said] == [
        (0, "refused"), (0, "redrive"), (1, "redrive"),
    ]  # fmt: skip
    # A replay sees each account's calls in their order, though they lie in two partitions, and its
    # ticks of before, which lie in no partition that was added; also of an export.
    ended = dialwatch("replay", directory=tmp_path, variables=small.variables)
    assert ended.returncode == 0, ended.stderr
    again = [json.loads(line) for line in ended.stdout.splitlines()]
    assert by_id(again) == by_id(told)
    assert inbox(again) == EXPECTED
    topics = ("call-records", "recharges", "accounts", "ticks", "announcements")
    made = dialwatch(
        "export", *topics, "--to", "out", directory=tmp_path, variables=small.variables
    )
    assert made.returncode == 0, made.stderr
    for arguments in (["--jobs", "2"], ["--files", "out", "--jobs", "2"]):
        same = dialwatch("replay", *arguments, directory=tmp_path, variables=small.variables)
        assert (same.returncode, same.stdout) == (0, ended.stdout), same.stderr


@pytest.mark.broker
def test_after_the_group_s_offsets_expired_there_is_no_lag_and_nothing_is_published_again(
    small: Installation, tmp_path: Path
) -> None:
    worker = small.worker()
    asyncio.run(small.publish(before()))
    settle(small, lambda found: len(inbox(found)) >= 2 * len(ACCOUNTS))
    asyncio.run(small.fold_all())
    told = {one["notification_id"] for one in asyncio.run(small.read_values("notifications"))}
    asyncio.run(
        small.wait_for(
            "deliveries", lambda found: told <= {one["notification_id"] for one in found}
        )
    )
    worker.stop()
    asyncio.run(kafka_admin.delete_group(small))
    asyncio.run(small.publish([failed(ACCOUNTS[0], 4)]))
    asked = dialwatch("lag", directory=tmp_path, variables=small.variables)
    rows = json.loads(asked.stdout)["partitions"]
    assert {row["committed"] for row in rows} == {None}
    assert {row["topic"]: row["lag"] for row in rows if row["lag"]} == {small.topics.calls: 1}
    worker.start()  # whether it has folded the last shows only in its offsets
    asyncio.run(small.fold_all())
    worker.stop()
    asyncio.run(kafka_admin.delete_group(small))
    done = expand(small, tmp_path, "--execute")
    assert done.returncode == 0, done.stderr
    assert "published again" not in done.stderr
    small.variables["DIALWATCH_PARTITIONS"] = str(NEW)
    assert len(asyncio.run(small.read("call-records"))) == 4 * len(ACCOUNTS) + 5


@pytest.mark.broker
def test_an_expansion_that_was_frozen_and_wakes_up_after_another_did_it_says_so(
    small: Installation, tmp_path: Path
) -> None:
    worker = small.worker()
    asyncio.run(small.publish(before()))
    settle(small, lambda found: len(inbox(found)) >= 2 * len(ACCOUNTS))
    worker.stop()
    command = [sys.executable, "-m", "app.cli", "topics", "expand", "--partitions", str(NEW)]
    frozen_at = {"DIALWATCH_TEST_FREEZE_AT": "before-commit:1"}
    with subprocess.Popen(
        [*command, "--execute"], cwd=tmp_path, env=small.environment() | frozen_at,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        try:
            os.waitid(os.P_PID, first.pid, os.WSTOPPED)
            second = expand(small, tmp_path, "--execute")
            assert second.returncode == 0, second.stderr
        finally:
            first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=180)
    assert first.returncode == 1
    assert said.splitlines()[-1].startswith("dialwatch: another expand began meanwhile")
    assert "there is nothing to do" in expand(small, tmp_path, "--execute").stderr


def by_id(commands: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All but a line's, whose calls meet across partitions in the order in which they are read."""
    return {one["notification_id"]: one for one in commands if one["scenario"] != "line_error_run"}


@pytest.mark.broker
def test_what_is_not_sent_yet_stops_it_before_anything_changes(
    small: Installation, tmp_path: Path
) -> None:
    unfinished = UNFINISHED.prefix + small.topics.sms_outbox.encode()
    asyncio.run(small.publish_named(small.topics.changelog, unfinished, b"x"))
    refused = expand(small, tmp_path, "--execute")
    assert refused.returncode == 1
    assert "are not sent yet" in refused.stderr.splitlines()[-1]
    assert f"{small.topics.changelog}\t{OLD}\t{NEW}" in expand(small, tmp_path).stdout


@pytest.mark.broker
def test_a_log_that_ends_before_what_was_read_stops_it_before_anything_changes(
    small: Installation, tmp_path: Path
) -> None:
    calls = small.topics.calls
    key = POSITIONS.prefix + calls.encode()
    here = TP(calls, partition_of(key, OLD))
    of_another = POSITIONS.encode(Position(1_000, bytes(range(16))))
    asyncio.run(small.publish_named(small.topics.changelog, key, of_another))

    def refused(*arguments: str) -> str:
        ended = expand(small, tmp_path, *arguments)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert "--reset-offsets" in line
        return str(line)

    assert f"{calls} was deleted or made anew" in refused("--execute")  # also while it is empty
    asyncio.run(
        small.publish(failed("x", index)._replace(partition=here.partition) for index in range(3))
    )
    asked = dialwatch("lag", directory=tmp_path, variables=small.variables)
    rows = json.loads(asked.stdout)["partitions"]
    assert {row["topic"]: row["lag"] for row in rows if row["lag"]} == {calls: 3}
    assert f"{calls} was deleted or made anew" in refused()
    asyncio.run(kafka_admin.reset_offsets(small, {here: 10}))
    assert f"{calls}-{here.partition}: group goes on at offset 10" in refused("--execute")
    asyncio.run(kafka_admin.reset_offsets(small, {here: 0}))
    assert f"{small.topics.changelog}\t{OLD}\t{NEW}" in expand(small, tmp_path).stdout


@pytest.mark.broker
@pytest.mark.parametrize("partitions", ["1", "0", "x"])
def test_fewer_or_no_partitions_are_refused_in_one_line(
    installation: Installation, tmp_path: Path, partitions: str
) -> None:
    ended = dialwatch(
        "topics",
        "expand",
        "--partitions",
        partitions,
        directory=tmp_path,
        variables=installation.variables,
    )
    assert ended.returncode == (1 if partitions == "1" else 2)
    assert len(ended.stderr.splitlines()) == 1


def test_every_table_says_whose_its_keys_are() -> None:
    tables = [one for one in vars(state_tables).values() if isinstance(one, state_tables.Table)]
    own = {state_tables.ANNOUNCED.prefix, state_tables.CLOCKS.prefix}
    for table in tables:
        owner = owner_of(table.prefix, b"acme" + bytes(16))
        assert (owner is None) == (table.prefix in own), table.prefix
        assert owner is None or owner.startswith(b"acme")

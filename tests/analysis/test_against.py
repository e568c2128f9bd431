"""A replay held against what was told: empty where nothing differs, else it says what made it."""

import asyncio
import json
from typing import Any

import pytest

from app.analysis.against import is_ours
from app.analysis.commands import ToldCommand
from app.analysis.run import Replay, asked_for
from streams.engine.types import TP
from tests.analysis.test_export import run
from tests.installation import PARTITIONS, Installation, Published
from tests.kafka_admin import delete_before
from tests.replay.test_replay import live_through
from tests.samples import ENDED, account, call, ticks


@pytest.mark.broker
async def test_a_replay_tells_what_was_told(installation: Installation) -> None:
    """All scenarios; each line's calls lie in one partition; no account changes meanwhile."""
    wishes = {"intent_classes": ["A"], "balance_threshold": "50.00",
              "expires_at": "2019-02-03T00:00:00+08:00"}  # fmt: skip
    await installation.publish(account(name, **wishes) for name in ("acme", "bob", "carol"))
    worker = installation.worker()
    await live_through(installation)
    # The balance stays low: the same cause on another day.
    low = call("acme", 0, submitted_at="2019-01-31T10:00:00Z", balance="10.00")
    days = [f"2019-02-0{day}T10:00:00+08:00" for day in (1, 2)]
    await installation.publish([low, *ticks(days[0], PARTITIONS), *ticks(days[1], PARTITIONS)])
    await installation.wait_for(
        "notifications", lambda seen: any(one["occurred_at"] == days[1] for one in seen)
    )
    await installation.fold_all()
    worker.stop()
    foreign = {"scenario": "low_balance", "account_id": "acme", "channel": "inbox", "page": None,
               "occurred_at": ENDED, "title": "t", "content": "c", "cause": {}}  # fmt: skip
    direct = {"scenario": "direct", "account_id": None, "channel": "wechat", "openid": "o",
              "occurred_at": ENDED, "title": "", "content": "",
              "page": None, "cause": {}}  # fmt: skip
    await installation.publish(
        [
            Published("notifications", "acme", foreign | {"notification_id": "crm-1"}),
            Published("notifications", "acme", foreign | {"notification_id": "ab" * 16}),
            Published("notifications", "o", direct | {"notification_id": "cd" * 16}),
            Published("notifications", "acme", b"rubbish"),
        ]
    )
    same = run(installation, "replay", "--against", "notifications")
    assert same.returncode == 0, same.stderr
    rows = [json.loads(line) for line in same.stdout.splitlines()]
    assert {row["difference"] for row in rows} == {"both"}, same.stderr
    sent = [one for one in await installation.read("notifications") if dict(one.headers)]
    ids = sorted(json.loads(one.value)["notification_id"] for one in sent)
    assert sorted(row["command"]["notification_id"] for row in rows) == ids
    assert same.stderr.startswith(f"{len(rows)} both, 0 only_replay, 0 only_sent\n")

    # What if: other alerts of runs, everything else as it was.
    other = run(installation, "replay", "--against", "notifications", "--run-length", "50,100")
    rows = [json.loads(line) for line in other.stdout.splitlines()]
    assert "50 in 24 h: " in other.stderr
    assert "differences are of other grounds" in other.stderr
    assert all(row["difference"] == "both" for row in rows if row["run_length"] == 100)
    different = [row for row in rows if row["difference"] != "both"]
    assert {row["difference"] for row in different} == {"only_replay", "only_sent"}
    scenarios = {row["command"]["scenario"] for row in different}
    assert scenarios == {"unreachable_run", "line_error_run"}
    lengths = {(row["difference"], row["command"]["cause"]["run_length"]) for row in different}
    assert lengths == {("only_replay", 50), ("only_sent", 100)}

    # An account that changes afterwards: the replay knows only what the topic holds now.
    await installation.publish([account("acme", intent_classes=["E"], balance_threshold="50.00")])
    changed = run(installation, "replay", "--against", "notifications", "--account", "acme")
    assert "of accounts that changed meanwhile" in changed.stderr


@pytest.mark.broker
async def test_a_line_over_several_partitions_is_named_as_what_made_it(
    installation: Installation,
) -> None:
    names = [f"a{number}" for number in range(8)]
    await installation.publish(
        call(name, index, result="W", line_id="line-x") for index in range(20) for name in names
    )
    ended = run(installation, "replay", "--against", "notifications")
    assert ended.returncode == 0, ended.stderr
    assert "only_replay" in ended.stdout
    assert "of lines whose calls lie in several partitions" in ended.stderr


FOREIGN = Published("notifications", "acme", {}, 0)


@pytest.mark.broker
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_comes_while_it_runs_is_left_out_on_both_sides(
    installation: Installation, jobs: int
) -> None:
    def publish(begin: int) -> None:
        calls = [call("acme", index, result="F") for index in range(begin, begin + 100)]
        asyncio.run(installation.publish([*calls, FOREIGN]))

    publish(0)
    asked = asked_for(
        installation.settings(), files=None, since=None, until=None, run_length=None,
        window_hours=None, scenario=[], account=None, jobs=jobs, has_places=True,
    )  # fmt: skip
    with Replay(asked) as run:
        publish(100)
        list(run.commands())
        assert run.seen.records == 100
        assert len(list(run.sent())) == 1


@pytest.mark.broker
async def test_that_the_oldest_commands_are_gone_is_said(installation: Installation) -> None:
    await installation.publish([call("acme", 0), FOREIGN, FOREIGN])
    topic = installation.topics.notifications
    await delete_before(installation, {TP(topic, 0): 1})
    said = f"the beginning of {topic} was deleted (partitions 0): what was told before it counts"
    assert said in run(installation, "replay", "--against", "notifications").stderr
    assert run(installation, "replay").stderr == ""


@pytest.mark.parametrize(
    ("scenario", "id_", "cause", "headers", "is_one"),
    [
        ("low_balance", "x", {}, [("dialwatch.cause", b"ticks/0/1")], True),
        ("low_balance", "ab" * 16, {"balance": "1.00", "threshold": "2.00"}, [], True),
        ("low_balance", "ab" * 16, {"balance": "1.00"}, [], False),
        ("low_balance", "crm", {"balance": "1.00", "threshold": "2.00"}, [], False),
        ("direct", "ab" * 16, {}, [("dialwatch.cause", b"")], False),
    ],
)
def test_which_commands_are_dialwatch_s_own(
    scenario: str, id_: str, cause: Any, headers: Any, is_one: bool
) -> None:
    said = ToldCommand(id_, scenario, "acme", "inbox", "2019-01-30T15:52:10+08:00", cause=cause)
    assert is_ours(said, headers) is is_one

"""The commands that only look, on an installation in which something of everything happened."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.commands.output import language_of
from streams.records import SCENARIOS
from streams.topics import partition_of
from tests.installation import PARTITIONS, Installation
from tests.operations.conftest import ENDED, LINE, ODD, TICK, Run

pytestmark = pytest.mark.broker

BATCH = "2019-01-30T15:00:00+08:00"


def test_state_account_is_what_is_remembered(run: Run) -> None:
    state = run("state", "account", "acme").json()
    batches = {one["submitted_at"]: one for one in state.pop("batches")}
    assert batches[BATCH] == {
        "submitted_at": BATCH,
        "batch_size": 50,
        "seen": 48,
        "missing": [17, 33],
        "last_ended_at": ENDED,
        "completed": False,
    }
    assert batches["2019-01-30T15:10:00+08:00"]["completed"] is True
    assert batches[ENDED]["missing"] == [*range(3, 10), *range(12, 25)]  # the first 20
    assert list(batches) == sorted(batches)
    assert state == {
        "account_id": "acme",
        "partition": partition_of(b"acme", PARTITIONS),
        "tick": TICK,
        "customer": {
            "name": "acme公司",
            "openid": "o12****cdef",
            "phone": "138****5678",
            "intent_classes": ["A", "B"],
            "balance_threshold": "50.00",
            "expires_at": "2019-02-20T00:00:00+08:00",
            "channels": None,
        },
        "run": {
            "count": 3, "length": 50, "first_call_id": "acme-call-0", "last_ended_at": ENDED
        },
        "balance": {"latest": "60.00", "told_on": []},
        "expiry": {
            "expires_at": "2019-02-20T00:00:00+08:00",
            "notice_from": "2019-02-13T00:00:00+08:00",
            "told": False,
        },
        "wechat": {"subscribed": True},
    }  # fmt: skip
    assert run("state", "account", "acme", "--reveal").json()["customer"]["phone"] == "13812345678"


def test_times_are_in_the_zone_of_the_settings(run: Run) -> None:
    state = run("state", "account", "acme", DIALWATCH_TIMEZONE="UTC").json()
    assert state["tick"] == "2019-01-31T00:30:00+00:00"
    assert state["batches"][0]["submitted_at"] == "2019-01-30T07:00:00+00:00"


def test_an_id_with_slashes_quotes_and_brackets_is_an_id(run: Run) -> None:
    state = run("state", "account", ODD).json()
    assert state["account_id"] == ODD
    assert state["customer"]["channels"] == {"unreachable_run": []}
    assert state["batches"][0]["missing"] == [1, 2]
    table = run("state", "account", ODD, "--output", "table").out
    assert ODD.replace("🙂", "") in table.replace("🙂", "")
    assert "<b>怪</b>" in table
    reasons = run("explain", "account", ODD, "--scenario", "unreachable_run").json()["because"]
    assert "The account chose no channel for it." in reasons


def test_state_line_is_its_run_and_who_is_in_it(run: Run) -> None:
    state = run("state", "line", LINE).json()
    # Its calls come from two partitions, whichever is folded first.
    assert state["run"].pop("first_call_id") in {"acme-call-10", "quiet-call-1"}
    assert state == {
        "line_id": LINE,
        "partition": partition_of(LINE.encode(), PARTITIONS),
        "run": {"count": 3, "length": 50, "last_ended_at": ENDED},
        "accounts": ["acme", "quiet"],
    }


def test_while_redis_is_away_the_rest_is_told(run: Run) -> None:
    away = {"DIALWATCH_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert run("state", "account", "acme", **away).json()["wechat"] is None
    shown = run("explain", "account", "acme", "--scenario", "announcement", **away).json()
    assert "Redis is away: whether a channel is on hold isn't known." in shown["because"]


def test_explain_says_for_each_scenario_where_it_stands_in_either_language(run: Run) -> None:
    wechat = {
        "DIALWATCH_WECHAT_APP_ID": "a",
        "DIALWATCH_WECHAT_APP_SECRET": "s",
        "DIALWATCH_WECHAT_TEMPLATE_ID": "t",
    }
    rows = {row["scenario"]: row for row in run("explain", "account", "acme", **wechat).rows()}
    assert list(rows) == list(SCENARIOS)
    assert all(set(row) == {"scenario", "stands", "needs", "because"} for row in rows.values())
    assert (rows["unreachable_run"]["stands"], rows["unreachable_run"]["needs"]) == (3, 50)
    assert "indexes 17 and 33 missing" in rows["batch_completed"]["because"][0]
    last = rows["interested_customer"]["because"][-1]
    assert last.startswith("The last one by inbox, at ")
    assert "was skipped: no official account" in "".join(rows["batch_completed"]["because"])
    quiet = run("explain", "account", "quiet", "--language", "zh", **wechat).rows()
    assert "没有openid，微信消息会跳过。" in quiet[0]["because"]
    by_locale = run("explain", "account", "quiet", LC_ALL="zh_CN.UTF-8", **wechat).rows()
    assert by_locale == quiet


def test_a_language_comes_from_the_locale_as_programs_read_it() -> None:
    assert language_of({"LC_ALL": "", "LANG": "zh_TW.UTF-8"}) == "zh"
    assert language_of({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}) == "en"
    assert language_of({}) == "en"


FIELDS = [
    "notification_id", "account_id", "scenario", "channel", "status", "error", "error_code",
    "attempts", "at", "occurred_at", "title",
]  # fmt: skip


def test_deliveries_are_newest_first_and_have_their_command_s_title(run: Run) -> None:
    rows = run("deliveries").rows()
    assert all(sorted(row) == sorted(FIELDS) for row in rows)
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    assert {row["occurred_at"] for row in rows} == {ENDED}
    assert {row["title"] for row in rows} == {"A类意向客户", "任务完成", "充值到账"}
    assert len(rows) == 9  # three noticed by inbox and wechat, one more with sms, acme's twice
    assert run("deliveries", "--limit", "3").rows() == rows[:3]


def test_each_filter_of_deliveries_chooses(run: Run) -> None:
    everything = run("deliveries").rows()
    one = everything[0]
    for option, field, value in (
        ("--account", "account_id", "quiet"),
        ("--notification", "notification_id", one["notification_id"]),
        ("--scenario", "scenario", "batch_completed"),
        ("--channel", "channel", "inbox"),
        ("--status", "status", "skipped"),
    ):
        expected = [row for row in everything if row[field] == value]
        assert expected
        assert run("deliveries", option, value).rows() == expected, option
    middle = everything[4]["at"]
    later = run("deliveries", "--since", middle).rows()
    assert later == [row for row in everything if row["at"] >= middle]
    earlier = run("deliveries", "--until", middle).rows()
    assert earlier == [row for row in everything if row["at"] < middle]
    assert run("deliveries", "--since", "-1h").rows() == everything
    assert run("deliveries", "--until", "-1h") == (0, "", "")


def test_dead_letters_are_listed_and_shown_byte_for_byte(run: Run) -> None:
    (row,) = run("dlq", "list").rows()
    assert row["topic"].endswith(".call-records")
    assert row["key"] == "acme"
    assert (row["attempts"], row["handled"]) == (1, None)
    assert row["reason"].startswith("batch_size: 7 is not 50")
    shown = run("dlq", "show", row["letter"])
    assert json.loads(shown.out)["batch_size"] == 7
    assert len(shown.out.encode()) == row["bytes"]
    assert f"dialwatch.offset: {row['offset']}" in shown.err.splitlines()
    plan = run("dlq", "redrive")
    assert [one["action"] for one in plan.rows()] == ["redrive"]
    assert "nothing was done: --execute does it" in plan.err


def test_every_output_says_the_same(run: Run) -> None:
    rows = run("deliveries", "--output", "jsonl").rows()
    assert run("deliveries", "-o", "json").json() == rows
    table = list(csv.DictReader(io.StringIO(run("deliveries", "-o", "csv").out)))
    assert [one["notification_id"] for one in table] == [row["notification_id"] for row in rows]
    assert [one["title"] for one in table] == [row["title"] for row in rows]
    shown = run("deliveries", "-o", "table").out
    assert all(row["notification_id"] in shown for row in rows)
    assert "\x1b" not in shown  # no decoration where nobody looks


@pytest.mark.parametrize(
    "arguments",
    [
        ("state", "account", "nobody"),
        ("state", "line", "no-line"),
        ("explain", "account", "nobody"),
        ("deliveries", "--account", "nobody"),
        ("deliveries", "--notification", "nothing"),
        ("dlq", "show", "0:12345"),
        ("dlq", "show", "99:0"),
        ("dlq", "redrive", "0:12345", "--execute"),
    ],
)
def test_what_does_not_exist_is_exit_1_and_one_line(arguments: tuple[str, ...], run: Run) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("deliveries", "--since", "-1h", "--until", "-2h"),
        ("deliveries", "--since", "soon"),
        ("deliveries", "--limit", "1000000"),
        ("deliveries", "--limit", "0"),
        ("deliveries", "--status", "lost"),
        ("dlq", "list", "--limit", "1000000"),
        ("dlq", "show", "first"),
        ("dlq", "discard", "--why", " "),
        ("dlq", "discard"),
        ("explain", "account", "acme", "--scenario", "nothing"),
        ("state", "account"),
        ("state", "account", ""),
        ("state", "line", "half a character: \udcff"),
        ("deliveries", "--account", ""),
        ("deliveries", "--notification", ""),
        ("lag", "--output", "xml"),
    ],
)
def test_wrong_usage_is_exit_2_and_one_line(arguments: tuple[str, ...], run: Run) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1


def test_an_empty_list_is_no_failure(run: Run) -> None:
    for arguments in (
        ("deliveries", "--account", "acme", "--status", "failed"),
        ("deliveries", "--scenario", "direct"),
        ("dlq", "list", "--topic", "ticks"),
    ):
        assert run(*arguments) == (0, "", ""), arguments


def test_lag_names_workers_and_counts_no_markers(run: Run, told: Installation) -> None:
    lag = run("lag").json()
    assert lag["group"] == told.name
    (member,) = lag["members"]
    assert set(member) == {"worker", "host", "partitions"}
    assert len(member["worker"]) == 12  # its own id
    assert member["partitions"][told.topics.calls] == [0, 1, 2, 3]
    rows = lag["partitions"]
    assert {row["lag"] for row in rows} == {0}
    assert {row["seconds_behind"] for row in rows} == {0.0}


def test_a_shell_completes_commands_options_and_values(tmp_path: Path) -> None:
    def completed(words: str) -> str:
        own = os.environ | {
            "_DIALWATCH_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        asked = subprocess.run(
            [Path(sys.executable).parent / "dialwatch"],
            env=own, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return asked.stdout

    assert completed("dialwatch del").split() == ["deliveries"]
    assert "--notification" in completed("dialwatch deliveries --").split()
    assert completed("dialwatch deliveries --channel w").split() == ["wechat"]


def test_what_is_read_joins_no_group(run: Run, told: Installation) -> None:
    before: Any = run("lag").json()["members"]
    run("deliveries")
    run("dlq", "redrive")
    assert run("lag").json()["members"] == before


def test_deliveries_that_are_cut_say_so(run: Run) -> None:
    rows = run("deliveries").rows()
    cut = run("deliveries", "--limit", str(len(rows) - 1))
    assert cut.rows() == rows[:-1]
    assert cut.err.startswith(f"there are more than these {len(rows) - 1}: --limit")
    assert run("deliveries", "--limit", str(len(rows))).err == ""

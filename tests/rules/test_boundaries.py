"""The contract's edges: equal instants, last moments, repeats, and one rule meeting another."""

import random
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tables import recharges, texts
from tables.lines import LineCall, LineRun, LineSegment, fold
from tables.recharges import Recharges
from tables.runs import Run
from tests.drive import Drive
from tests.installation import Published
from tests.rules.test_noticing import failures, low, scenarios, tick, told
from tests.samples import account, announcement, call, recharge

GONE = Published("accounts", "acme", None)


def causes(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["cause"] for one in commands if one["channel"] == "inbox"]


# -- batches


def test_a_batch_of_one_number_is_completed_by_it() -> None:
    drive = Drive()
    done = drive.take([call("acme", 0, batch_size=1)])
    assert causes(done) == [{"submitted_at": "2019-01-30T15:00:00+08:00", "batch_size": 1}]
    assert done[0]["occurred_at"] == "2019-01-30T15:52:10+08:00"
    assert drive.take([call("acme", 0, batch_size=1, call_id="other", result="A")]) == []


def test_accounts_and_batches_of_one_instant_dont_mix() -> None:
    drive = Drive()
    moments = ("2019-01-30T15:00:00+08:00", "2019-01-30T15:00:00.000001+08:00")
    calls = [
        call(name, 0, batch_size=2, submitted_at=at)
        for name in ("acme", "bob", "acmeb")
        for at in moments
    ]
    assert drive.take(calls) == []
    done = drive.take([one._replace(value=one.value | {"batch_index": 1}) for one in calls])
    assert scenarios(done) == ["batch_completed"] * 6


def test_a_batch_size_that_differs_is_invalid_also_after_the_batch_is_complete() -> None:
    drive = Drive()
    drive.take([call("acme", n, batch_size=2) for n in range(2)])
    assert drive.take([call("acme", n, batch_size=3) for n in range(3)]) == []
    assert drive.reasons() == ["batch_size: 3 is not 2, its batch's first"] * 3


def test_an_invalid_record_is_not_its_batchs_first() -> None:
    drive = Drive()
    drive.take([call("acme", 0, batch_size=3, result="G")])
    done = drive.take([call("acme", n, batch_size=2) for n in range(2)])
    assert scenarios(done) == ["batch_completed"]


def test_a_forgotten_batch_may_come_again_with_another_size() -> None:
    drive = Drive()
    drive.take([call("acme", 0, batch_size=2), *tick("2019-02-06T15:52:11+08:00")])
    done = drive.take([call("acme", n, batch_size=3) for n in range(3)])
    assert scenarios(done) == ["batch_completed"]
    assert drive.dead_letters == 0


def test_an_idle_batch_is_kept_by_its_last_ended_at_whatever_the_order() -> None:
    drive = Drive(batch_retention_days=1)
    drive.take([call("acme", 0, batch_size=3, ended_at="2019-01-30T12:00:00+08:00")])
    drive.take([call("acme", 1, batch_size=3, ended_at="2019-01-30T11:00:00+08:00")])
    # A repeat changes nothing: not how long the batch is remembered either.
    drive.take([call("acme", 1, batch_size=3, ended_at="2019-01-30T18:00:00+08:00")])
    drive.take(tick("2019-01-31T12:00:00+08:00"))  # exactly a day: not longer ago than that
    assert scenarios(drive.take([call("acme", 2, batch_size=3)])) == ["batch_completed"]
    drive = Drive(batch_retention_days=1)
    drive.take([call("acme", 0, batch_size=2, ended_at="2019-01-30T12:00:00+08:00")])
    drive.take(tick("2019-01-31T12:00:00.000001+08:00"))
    assert drive.take([call("acme", 1, batch_size=2)]) == []


def test_a_batch_of_a_backlog_isnt_forgotten_by_a_tick_that_passed_before() -> None:
    drive = Drive()
    drive.take(tick("2019-06-01T12:00:00+08:00"))
    assert drive.take([call("acme", 0, batch_size=2), call("acme", 0, batch_size=2)]) == []
    assert scenarios(drive.take([call("acme", 1, batch_size=2)])) == ["batch_completed"]


def test_a_tick_equal_to_the_last_one_forgets_what_was_counted_between() -> None:
    drive = Drive()
    old = {"submitted_at": "2019-01-30T12:00:00+08:00", "ended_at": "2019-01-30T13:00:00+08:00"}
    now, just_after = "2019-02-10T12:00:00+08:00", "2019-02-10T12:00:00.000001+08:00"
    for number, at in enumerate([now, now, now, just_after, just_after, just_after]):
        drive.take(tick(at))
        # Each tick forgets the one counted before it, so that none is of another size.
        drive.take([call("acme", 0, **old, batch_size=number + 2)])
        assert drive.dead_letters == 0
        drive.take([call("acme", 0, **old, batch_size=number + 9)])
        assert drive.reasons() == [
            f"batch_size: {number + 9} is not {number + 2}, its batch's first"
        ]
        drive.letters.clear()
    drive.take([*tick(now), call("acme", 0, **old, batch_size=9)])  # older: changes nothing
    assert drive.dead_letters == 1


def test_an_equal_tick_is_no_later_one() -> None:
    drive = Drive(batch_retention_days=1)
    drive.take(tick("2019-01-31T12:00:00+08:00"))
    drive.take([call("acme", 0, batch_size=2, ended_at="2019-01-30T12:00:00+08:00")])
    for _ in range(3):
        drive.take(tick("2019-01-31T12:00:00+08:00"))  # exactly a day: not longer ago than that
    assert scenarios(drive.take([call("acme", 1, batch_size=2)])) == ["batch_completed"]


def test_many_batches_at_once_are_each_completed_once() -> None:
    drive = Drive()
    start = datetime(2019, 1, 30, tzinfo=UTC)
    moments = [(start + timedelta(seconds=n * 7 % 50)).isoformat() for n in range(50)]
    for index in range(3):
        drive.take([call("acme", index, batch_size=3, submitted_at=at) for at in moments])
    assert scenarios(drive.commands) == ["batch_completed"] * 50
    assert drive.take([call("acme", 1, batch_size=3, submitted_at=at) for at in moments]) == []


# -- runs


def test_a_run_length_of_one_fires_at_each() -> None:
    drive = Drive(run_length=1)
    commands = drive.take([*failures(2), call("bob", 0, result="W"), call("carol", 0, result="W")])
    assert [(one["account_id"], one["cause"]["first_call_id"], one["cause"]["call_id"])
            for one in commands if one["channel"] == "inbox"] == [
        ("acme", "acme-call-0", "acme-call-0"), ("acme", "acme-call-1", "acme-call-1"),
        ("bob", "bob-call-0", "bob-call-0"), ("carol", "carol-call-0", "carol-call-0"),
    ]  # fmt: skip


def test_a_runs_order_is_the_order_of_arrival() -> None:
    drive = Drive(run_length=3, run_window_hours=1)
    drive.take(failures(1, 0, ended_at="2019-01-30T12:00:00+08:00"))
    # Earlier than the one before it: not later than the window allows.
    drive.take(failures(1, 1, ended_at="2019-01-30T02:00:00+08:00"))
    # More than an hour later than the one before it, though not than the first.
    assert drive.take(failures(1, 2, ended_at="2019-01-30T03:00:01+08:00")) == []
    commands = drive.take(failures(2, 3, ended_at="2019-01-30T03:00:01+08:00"))
    assert causes(commands)[0]["first_call_id"] == "acme-call-2"


def test_the_window_is_a_pause_inside_a_run_not_its_length() -> None:
    drive = Drive(run_length=5, run_window_hours=1)
    for hour in range(5):
        drive.take(failures(1, hour, ended_at=f"2019-01-30T{10 + hour}:00:00+08:00"))
    assert scenarios(drive.commands) == ["unreachable_run"]


def test_the_records_that_fired_are_never_part_of_another_alert() -> None:
    drive = Drive(run_length=3)
    drive.take(failures(3))
    assert drive.take(failures(2, 3)) == []
    assert causes(drive.take(failures(1, 5)))[0]["first_call_id"] == "acme-call-3"
    wrong = [call(name, 10, result="W") for name in ("acme", "bob", "carol")]
    assert len(causes(drive.take(wrong))) == 3
    # Only who has a call in this run.
    commands = drive.take([call("bob", n, result="W") for n in range(11, 14)])
    assert {one["account_id"] for one in commands} == {"bob"}


def test_runs_go_on_over_batches_and_lines_over_accounts() -> None:
    drive = Drive(run_length=3)
    for day in range(3):
        drive.take(failures(1, 0, submitted_at=f"2019-01-2{day}T00:00:00Z", call_id=f"c{day}"))
    assert causes(drive.commands) == [{"run_length": 3, "first_call_id": "c0", "call_id": "c2"}]


def test_who_left_the_run_by_a_pause_is_not_told() -> None:
    drive = Drive(run_length=2, run_window_hours=1)
    drive.take([call("acme", 0, result="W", ended_at="2019-01-30T10:00:00+08:00")])
    later = [call("bob", n, result="W", ended_at="2019-01-30T11:00:00.5+08:00") for n in range(2)]
    assert {one["account_id"] for one in drive.take(later)} == {"bob"}


def test_one_record_may_be_noticed_in_several_ways() -> None:
    drive = Drive(run_length=1)
    drive.take([account("acme", intent_classes=["B"], balance_threshold="0")])
    at = "2019-01-30T10:00:00+08:00"
    commands = drive.take([call("acme", 0, batch_size=1, result="F", balance="-0.01", ended_at=at)])
    assert set(scenarios(commands)) == {"batch_completed", "unreachable_run", "low_balance"}
    assert len({one["notification_id"] for one in commands}) == len(commands) == 7
    assert all(one["occurred_at"] == at for one in commands)
    assert all(
        one["notification_id"].isascii() and len(one["notification_id"]) <= 64 for one in commands
    )


# -- interests


def test_changed_classes_count_from_the_next_event_on() -> None:
    drive = Drive()
    drive.take([account("acme", intent_classes=["A", "A"]), call("acme", 0, result="B")])
    drive.take([account("acme", intent_classes=["B"])])
    assert drive.commands == []
    assert scenarios(drive.take([call("acme", 1, result="B")])) == ["interested_customer"]
    drive.take([account("acme", intent_classes=None)])
    assert drive.take([call("acme", 2, result="B")]) == []


def test_an_invalid_account_record_changes_nothing() -> None:
    drive = Drive()
    drive.take([account("acme", intent_classes=["A"]), account("acme", intent_classes=["F"])])
    assert drive.reasons()[0].startswith("intent_classes")
    assert scenarios(drive.take([call("acme", 0, result="A")])) == ["interested_customer"]


# -- channels


def test_an_empty_list_is_none_of_them_null_is_the_default_and_duplicates_count_once() -> None:
    drive = Drive()
    chosen = {"recharge_received": [], "low_balance": None, "account_expiring": ["sms", "sms"],
              "some_day": ["pigeon"]}  # fmt: skip
    drive.take([account("acme", channels=chosen, balance_threshold="50",
                        expires_at="2019-02-01T00:00:00+08:00")])  # fmt: skip
    assert told(drive.take([recharge("acme", "r1", balance="1")])) == [
        ("low_balance", "acme", "inbox"), ("low_balance", "acme", "wechat"),
        ("low_balance", "acme", "sms"),
    ]  # fmt: skip
    assert told(drive.take(tick("2019-01-30T16:00:00+08:00"))) == [
        ("account_expiring", "acme", "sms")
    ]
    drive.take([account("acme", channels=None)])
    assert len(drive.take([recharge("acme", "r2")])) == 3


def test_only_the_inbox_has_a_page() -> None:
    drive = Drive()
    assert {(one["channel"], one["page"]) for one in drive.take([recharge("acme", "r1")])} == {
        ("inbox", "finance"), ("wechat", None), ("sms", None)
    }  # fmt: skip


# -- balances


def test_a_balance_equal_to_the_threshold_is_not_below_it() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="-1.50")])
    assert low(drive, 0, "-1.5", "2019-01-30T10:00:00+08:00") == []
    assert drive.take(tick("2019-01-30T10:00:00+08:00")) == []
    commands = low(drive, 1, "-1.51", "2019-01-30T10:00:00+08:00")
    assert causes(commands) == [{"balance": "-1.51", "threshold": "-1.50"}]


def test_a_tick_told_it_first_and_an_event_of_the_same_day_doesnt() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50")])
    low(drive, 0, "1", "2019-01-30T10:00:00+08:00")
    assert scenarios(drive.take(tick("2019-01-31T09:00:00+08:00"))) == ["low_balance"]
    low(drive, 1, "80", "2019-01-31T09:01:00+08:00")
    assert low(drive, 2, "1", "2019-01-31T23:59:59.999999+08:00") == []
    low(drive, 3, "80", "2019-02-01T00:00:00+08:00")
    # 16:00 in UTC is midnight in Shanghai: another day.
    assert scenarios(low(drive, 4, "1", "2019-01-31T16:00:00Z")) == ["low_balance"]
    assert drive.take(tick("2019-02-01T09:00:00+08:00")) == []


def test_a_raised_threshold_is_told_by_the_tick_not_by_an_event_that_takes_nothing_below_it() -> (
    None
):
    drive = Drive()
    drive.take([account("acme", balance_threshold="10")])
    low(drive, 0, "20", "2019-01-30T08:00:00+08:00")
    drive.take([account("acme", balance_threshold="50")])
    # The one known before, 20, already was below the threshold of now.
    assert low(drive, 1, "19", "2019-01-30T08:00:01+08:00") == []
    commands = drive.take(tick("2019-01-30T09:00:00+08:00"))
    assert causes(commands) == [{"balance": "19.00", "threshold": "50.00"}]


def test_without_a_threshold_nothing_is_low_and_a_lowered_one_ends_it() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50")])
    low(drive, 0, "20", "2019-01-30T08:00:00+08:00")
    drive.take([account("acme", balance_threshold="20")])
    assert drive.take(tick("2019-01-31T09:00:00+08:00")) == []
    drive.take([account("acme", balance_threshold=None)])
    assert drive.take(tick("2019-02-01T09:00:00+08:00")) == []
    assert low(drive, 1, "-5", "2019-02-02T08:00:00+08:00") == []


def test_a_call_without_a_balance_leaves_the_latest_one() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50")])
    low(drive, 0, "20", "2019-01-30T08:00:00+08:00")
    drive.take([call("acme", 1, balance=None), call("acme", 2)])
    assert scenarios(drive.take(tick("2019-01-31T09:00:00+08:00"))) == ["low_balance"]


def test_a_repeated_call_or_recharge_brings_no_balance() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50")])
    low(drive, 0, "80", "2019-01-30T08:00:00+08:00")
    drive.take([recharge("acme", "r1", balance="90")])
    assert low(drive, 0, "1", "2019-01-30T08:00:00+08:00") == []
    assert drive.take([recharge("acme", "r1", balance="1")]) == []
    assert drive.take(tick("2019-01-31T09:00:00+08:00")) == []


def test_a_recharge_is_told_once_however_many_came_before_it() -> None:
    drive = Drive()
    drive.take([account("acme", channels={"recharge_received": ["inbox"]})])
    rng = random.Random(1)
    ids = [f"r{rng.randrange(5_000)}" for _ in range(10_000)]
    drive.take([recharge("acme", one) for one in ids])
    assert [one["cause"]["recharge_id"] for one in drive.commands] == list(dict.fromkeys(ids))
    # Also where one hash ends and the next begins.
    known = Recharges(bytes(8) + b"\1" * 8)
    digest = recharges.hash_of("x")
    known.hashes += b"\2" * 3 + digest + b"\2" * 5
    assert recharges.fold(known, digest)
    assert not recharges.fold(known, digest)


def test_low_on_every_day_is_told_on_every_day() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50")])
    low(drive, 0, "20", "2019-01-01T08:00:00+08:00")
    for day in range(2, 32):
        for hour in (8, 9, 9, 10, 23):
            drive.take(tick(f"2019-01-{day:02}T{hour:02}:00:00+08:00"))
    days = [one["occurred_at"] for one in drive.commands if one["channel"] == "sms"]
    assert days[1:] == [f"2019-01-{day:02}T09:00:00+08:00" for day in range(2, 32)]


# -- ticks


def test_a_tick_equal_to_one_seen_is_not_older_and_tells_what_is_new() -> None:
    drive = Drive()
    drive.take(tick("2019-01-31T09:00:00+08:00"))
    drive.take([account("acme", expires_at="2019-02-01T00:00:00+08:00")])
    assert drive.take(tick("2019-01-31T08:59:59.999+08:00")) == []
    assert scenarios(drive.take(tick("2019-01-31T01:00:00.000Z"))) == ["account_expiring"]
    assert drive.take(tick("2019-01-31T09:00:00+08:00")) == []


def test_an_older_tick_changes_nothing() -> None:
    drive = Drive(batch_retention_days=1)
    drive.take(tick("2019-01-31T08:00:00+08:00"))
    drive.take([account("acme", balance_threshold="50", expires_at="2019-02-01T00:00:00+08:00")])
    drive.take([call("acme", 0, batch_size=2, balance="1", ended_at="2019-01-01T00:00:00Z")])
    before = len(drive.commands)
    drive.take(tick("2019-01-30T10:00:00+08:00"))
    assert len(drive.commands) == before
    assert scenarios(drive.take([call("acme", 1, batch_size=2)])) == ["batch_completed"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia"])
def test_every_local_day_has_one_reminder_through_a_year_of_ticks(zone: str) -> None:
    there = ZoneInfo(zone)
    drive = Drive(zone=there, reminder_time=time(0, 30))
    drive.take([account("acme", balance_threshold="50", channels={"low_balance": ["inbox"]})])
    # Apia had no 30 December 2011; Sao Paulo's clocks left out midnight.
    moment = datetime(2011, 6, 1, tzinfo=UTC)
    low(drive, 0, "1", (moment - timedelta(days=9)).isoformat())
    days = set()
    while moment < datetime(2012, 6, 1, tzinfo=UTC):
        drive.take(tick(moment.isoformat()))
        if moment.astimezone(there).time() >= time(0, 30):
            days.add(moment.astimezone(there).date().isoformat())
        moment += timedelta(minutes=20)
    seen = [one["occurred_at"][:10] for one in drive.commands[1:]]
    assert seen == sorted(days)
    assert all(one["occurred_at"][11:16] <= "01:10" for one in drive.commands[2:])


def test_two_leaders_for_a_moment_do_no_harm() -> None:
    one, two = Drive(), Drive()
    for drive in (one, two):
        drive.take([account("acme", balance_threshold="50", expires_at="2019-02-03T00:00:00Z")])
        low(drive, 0, "1", "2019-01-25T08:00:00+08:00")
    start = datetime(2019, 1, 26, tzinfo=UTC)
    for minute in range(0, 10 * 24 * 60, 10):
        at = start + timedelta(minutes=minute)
        one.take(tick(at.isoformat()))
        # The other leader's clock is 7 s behind, and says everything twice.
        for moment in (at, at - timedelta(seconds=7), at - timedelta(seconds=7), at):
            two.take(tick(moment.isoformat()))
    assert len(one.commands) == (1 + 10 + 1) * 3
    assert one.commands == two.commands


# -- expiry


def test_an_expiry_changed_back_and_forth_is_told_once_for_each_value() -> None:
    drive = Drive()
    first, second = "2019-02-05T00:00:00+08:00", "2019-02-06T00:00:00+08:00"
    for day, expires in enumerate([first, second, first, None, second, "2019-02-04T16:00:00Z"]):
        drive.take([account("acme", expires_at=expires)])
        drive.take(tick(f"2019-01-30T{10 + day}:00:00+08:00"))
    assert [one["expires_at"] for one in causes(drive.commands)] == [first, second]


def test_notice_days_are_24_hours_each_also_when_clocks_change() -> None:
    drive = Drive(zone=ZoneInfo("Europe/Berlin"), reminder_time=time(0), expiry_notice_days=1)
    drive.take([account("acme", expires_at="2026-03-29T12:00:00+02:00")])
    assert drive.take(tick("2026-03-28T10:59:59.999999+01:00")) == []
    assert scenarios(drive.take(tick("2026-03-28T11:00:00+01:00"))) == ["account_expiring"]


def test_within_the_notice_days_but_before_the_reminder_time_waits_for_it() -> None:
    drive = Drive()
    drive.take([account("acme", expires_at="2019-01-30T09:00:00.000001+08:00")])
    assert drive.take(tick("2019-01-30T08:59:59+08:00")) == []
    assert scenarios(drive.take(tick("2019-01-30T09:00:00+08:00"))) == ["account_expiring"]


@pytest.mark.parametrize("restarts", [False, True])
def test_each_expiry_of_an_hour_is_told_at_its_own_minute(restarts: bool) -> None:
    drive = Drive()
    drive.take(
        account(name, expires_at=f"2019-02-06T10:{minute}:00+08:00")
        for name, minute in [("late", 40), ("soon", 20), ("moved", 20), ("gone", 20)]
    )
    drive.take([account("moved", expires_at="2019-02-06T11:00:00+08:00")])
    drive.take([Published("accounts", "gone", None)])
    seen = []
    for at in ["10:00", "10:19", "10:20", "10:21", "10:39", "10:40", "10:59", "11:00", "11:01"]:
        if restarts:
            drive.restart()
        seen += [(at, one["account_id"]) for one in drive.take(tick(f"2019-01-30T{at}:00+08:00"))
                 if one["channel"] == "sms"]  # fmt: skip
    assert seen == [("10:20", "soon"), ("10:40", "late"), ("11:00", "moved")]


def test_ticks_missed_until_the_account_has_expired_tell_nothing() -> None:
    drive = Drive()
    drive.take([account("acme", expires_at="2019-01-30T12:00:00+08:00")])
    assert drive.take(tick("2019-01-30T12:00:00+08:00")) == []
    drive.take([account("acme", expires_at="2019-02-01T12:00:00+08:00")])
    assert scenarios(drive.take(tick("2019-01-30T12:00:00+08:00"))) == ["account_expiring"]


# -- accounts


def test_a_deleted_account_that_comes_again_begins_anew() -> None:
    drive = Drive()
    there = account("acme", balance_threshold="50", expires_at="2019-02-01T00:00:00+08:00")
    history = [
        there,
        *failures(60, batch_size=61),
        call("acme", 60, result="F", batch_size=61, balance="1", ended_at="2019-01-30T10:00:00Z"),
        recharge("acme", "r1", balance="2"),
        *tick("2019-01-30T20:00:00+08:00"),
    ]
    once = drive.take(history)
    drive.take([GONE, there])
    assert drive.take(tick("2019-01-30T20:00:01+08:00"))[0]["scenario"] == "account_expiring"
    again = drive.take(history[1:-1])
    assert scenarios(again) == [name for name in scenarios(once) if name != "account_expiring"]
    # The same input: the same ids.
    assert {one["notification_id"] for one in again} <= {one["notification_id"] for one in once}


def test_an_account_without_a_record_is_told_under_its_id() -> None:
    drive = Drive()
    commands = drive.take([recharge("acme", "r1", amount="0.1", balance="5")])
    assert len(commands) == 3
    assert commands[0]["content"] == "尊敬的acme，您的充值已成功，您的账户当前余额￥5.00。"
    assert commands[0]["cause"] == {"recharge_id": "r1", "amount": "0.10", "balance": "5.00"}
    # Its balance is known when its record comes.
    drive.take([account("acme", balance_threshold="50")])
    assert scenarios(drive.take(tick("2019-01-31T09:00:00+08:00"))) == ["low_balance"]


def test_a_name_inside_a_text_is_that_of_when_it_was_noticed() -> None:
    drive = Drive()
    drive.take([account("acme", name="旧名"), account("acme", name="新名")])
    assert drive.take([recharge("acme", "r1")])[0]["content"].startswith("尊敬的新名，")


# -- announcements


def test_an_announcement_repeated_with_another_text_is_told_once() -> None:
    drive = Drive()
    drive.take([account("acme"), announcement("n1")])
    assert drive.take([announcement("n1", content="another"), account("bob")]) == []
    assert drive.take([announcement("n1")]) == []  # bob had no record then
    assert scenarios(drive.take([announcement("n2", kind="service")])) == ["announcement"] * 2


@pytest.mark.parametrize("kind", ["", "Upgrade", "upgrade ", "promotion", "升级"])
def test_any_other_kind_notifies_no_one(kind: str) -> None:
    drive = Drive()
    assert drive.take([account("acme"), announcement("n1", kind=kind)]) == []
    assert drive.dead_letters == 0


@pytest.mark.parametrize("length", [0, 49, 50, 51])
def test_the_first_50_characters_of_its_content(length: int) -> None:
    drive = Drive()
    content = ("𠮷🎉升" * 20)[:length]
    (inbox, _) = drive.take([account("acme"), announcement("n1", title="", content=content)])
    assert inbox["content"] == content[:50] + "，登录系统查看详情"
    assert inbox["title"] == ""


def test_two_causes_have_two_ids_however_their_parts_are_cut() -> None:
    parts = [("a", "b\x1fc"), ("a\x1fb", "c"), ("a", "b\x1e1c"), ("a\x1e1b", "c"), ("a", "b\x1ec")]
    ids = {texts.notification_id("interested_customer", "inbox", *cause) for cause in parts}
    assert len(ids) == len(parts)
    # As before where there is nothing to tell apart: what was sent is known under it.
    assert texts.notification_id("interested_customer", "inbox", "a", "b") == (
        "2342375773f80d52be1cc2f315d35790"
    )


# -- what is remembered


def test_ticks_alone_change_nothing_and_leave_nothing() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50"), *failures(3)])
    drive.take([call("acme", n, result="W", line_id=f"line-{n}") for n in range(3, 50)])
    drive.take(tick("2019-01-30T16:00:00+08:00"))
    before = drive.keys()
    moment = datetime(2019, 1, 30, 9, tzinfo=UTC)
    for minute in range(3 * 24 * 60):
        drive.take(tick((moment + timedelta(minutes=minute)).isoformat()))
    assert drive.commands == []
    assert drive.keys() == before
    for day in range(4, 12):
        drive.take(tick((moment + timedelta(days=day)).isoformat()))
    assert drive.keys() == 2 + 47  # the account, the partition's clock, and what only calls end
    for day in range(370, 378):
        drive.take(tick((moment + timedelta(days=day)).isoformat()))
    assert drive.keys() == 2


@pytest.mark.parametrize(
    ("result", "scenario"), [("F", "unreachable_run"), ("W", "line_error_run")]
)
@pytest.mark.parametrize("retention", [1, 7])
def test_ticks_end_no_run(result: str, scenario: str, retention: int) -> None:
    """Neither for a call at the window's end, nor for one that comes weeks after it ended."""
    drive = Drive(run_length=3, run_window_hours=24, batch_retention_days=retention)
    drive.take(tick("2019-01-29T23:59:01+08:00"))
    drive.take([call("acme", 0, result=result, ended_at="2019-01-30T00:00:00+08:00")])
    drive.take(tick("2019-01-31T00:00:01+08:00"))
    drive.take([call("acme", 1, result=result, ended_at="2019-01-31T00:00:00+08:00")])
    drive.take(tick("2019-03-01T00:00:00+08:00"))
    told = drive.take([call("acme", 2, result=result, ended_at="2019-02-01T00:00:00+08:00")])
    assert {one["scenario"] for one in told} == {scenario}


def test_ten_thousand_errors_of_one_line_in_one_poll_are_records_that_kafka_takes() -> None:
    drive = Drive()
    drive.take([account("acme", channels={"line_error_run": ["inbox", "wechat", "sms"]})])
    long_id = "0" * 200
    segments = drive.take_at_once(
        [
            call(
                "acme", n, result="W", line_id="line-1", call_id=f"{long_id}{n}", batch_size=10_000
            )
            for n in range(10_000)
        ]
    )
    assert scenarios(drive.commands) == ["batch_completed"] + ["line_error_run"] * 100
    assert max(len(one.value or b"") for one in segments) < 500_000


def test_repeats_of_a_complete_batch_leave_nothing_behind() -> None:
    drive = Drive()
    size = 10_000
    drive.take([call("acme", n, batch_size=size) for n in range(size)])
    before = drive.keys()
    drive.take([call("acme", n, batch_size=size) for n in range(size)])
    assert drive.keys() == before


def test_who_left_the_run_of_a_line_is_not_told_after_the_length_was_lowered() -> None:
    line = LineRun(Run(2, "c1", 0), {"acme": None})
    segment = LineSegment("line-1", [None, LineCall("c2", "bob", 1)])
    (reached,) = fold(line, segment, length=1, window=10)
    assert set(reached.accounts) == {"bob"}
    assert line == LineRun(Run(0, "c2", 1), {})

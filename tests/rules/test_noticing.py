"""The contract's first table and the sentences below it, one test for each."""

from datetime import time
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.drive import Drive
from tests.installation import Published
from tests.samples import account, announcement, call, recharge, ticks


def told(commands: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["scenario"], one["account_id"], one["channel"]) for one in commands]


def scenarios(commands: list[dict[str, Any]]) -> list[str]:
    """Of the inbox, where every scenario goes by default."""
    return [one["scenario"] for one in commands if one["channel"] == "inbox"]


def tick(at: str) -> list[Published]:
    return ticks(at, 1)


def failures(count: int, first: int = 0, **fields: Any) -> list[Published]:
    return [call("acme", first + n, result="F", **fields) for n in range(count)]


# -- interested_customer


def test_a_result_in_the_accounts_intent_classes() -> None:
    drive = Drive()
    drive.take([account("acme", intent_classes=["A", "C"])])
    commands = drive.take([call("acme", n, result=result) for n, result in enumerate("ABCDEFW")])
    assert (
        told(commands)
        == [
            ("interested_customer", "acme", "inbox"),
            ("interested_customer", "acme", "wechat"),
        ]
        * 2
    )
    assert [one["cause"]["result"] for one in commands] == ["A", "A", "C", "C"]


def test_an_account_without_a_record_has_no_intent_classes() -> None:
    assert Drive().take([call("acme", 0, result="A")]) == []


# -- batch_completed


def test_every_index_of_the_batch_has_a_record() -> None:
    drive = Drive()
    calls = [call("acme", n, batch_size=3) for n in (2, 0)]
    assert drive.take([*calls, calls[0]]) == []
    assert scenarios(drive.take([call("acme", 1, batch_size=3)])) == ["batch_completed"]


def test_a_batch_of_many_pages_completes_once() -> None:
    drive = Drive()
    size = 20_000
    calls = [call("acme", n, batch_size=size) for n in range(size)]
    assert scenarios(drive.take(calls)) == ["batch_completed"]
    assert drive.take(calls) == []


def test_one_instant_in_two_spellings_is_one_batch() -> None:
    drive = Drive()
    drive.take([call("acme", 0, batch_size=2, submitted_at="2019-01-30T15:00:00+08:00")])
    commands = drive.take([call("acme", 1, batch_size=2, submitted_at="2019-01-30T07:00:00.0Z")])
    assert scenarios(commands) == ["batch_completed"]


def test_a_record_whose_batch_size_differs_is_invalid_also_under_an_index_that_was_seen() -> None:
    drive = Drive()
    drive.take([call("acme", 0, batch_size=2)])
    drive.take([call("acme", 0, batch_size=3), call("acme", 2, batch_size=3)])
    assert drive.dead_letters == 2


# -- unreachable_run


def test_250_in_a_row_fire_at_100_and_200() -> None:
    commands = Drive().take(failures(250))
    assert [one["cause"] for one in commands if one["channel"] == "inbox"] == [
        {"run_length": 100, "first_call_id": "acme-call-0", "call_id": "acme-call-99"},
        {"run_length": 100, "first_call_id": "acme-call-100", "call_id": "acme-call-199"},
    ]


def test_any_other_result_ends_the_run() -> None:
    for result in "ABCDEW":
        drive = Drive()
        drive.take([*failures(99), call("acme", 500, result=result)])
        assert drive.take(failures(99, 99)) == []
        assert scenarios(drive.take(failures(1, 198))) == ["unreachable_run"]


def test_an_ended_at_more_than_the_window_later_ends_the_run() -> None:
    for ended, reached in (
        ("2019-01-31T15:52:10+08:00", ["unreachable_run"]),  # exactly 24 h later
        ("2019-01-31T15:52:10.000001+08:00", []),
    ):
        drive = Drive()
        drive.take(failures(99))
        assert scenarios(drive.take(failures(1, 99, ended_at=ended))) == reached


def test_an_invalid_or_repeated_record_ends_no_run_and_joins_none() -> None:
    drive = Drive()
    drive.take(failures(99))
    drive.take([Published("call-records", "acme", b"rubbish"), *failures(5)])
    drive.take([call("acme", 0, result="A", batch_size=999)])  # another size: invalid
    drive.take([call("acme", 3, result="A")])  # known by its index, whatever else it says
    assert drive.dead_letters == 2
    assert scenarios(drive.take(failures(1, 99))) == ["unreachable_run"]


def test_a_repeat_changes_nothing_within_the_retention() -> None:
    drive = Drive()
    drive.take(failures(60))
    drive.take(tick("2019-02-06T15:52:10+08:00"))  # 7 days later: not longer ago than that
    assert drive.take(failures(60)) == []
    assert scenarios(drive.take(failures(40, 60))) == ["unreachable_run"]


def test_a_batch_is_forgotten_by_the_tick_that_finds_it_longer_ago() -> None:
    drive = Drive()
    calls = [call("acme", n, batch_size=2) for n in range(2)]
    drive.take(calls)
    drive.take(tick("2019-02-06T15:52:11+08:00"))
    assert scenarios(drive.take(calls)) == ["batch_completed"]


def test_a_run_that_is_counted_before_the_first_tick_goes_on_after_it() -> None:
    drive = Drive()
    drive.take(failures(99))
    drive.take(tick("2019-01-30T15:53:00+08:00"))
    assert scenarios(drive.take(failures(1, 99))) == ["unreachable_run"]


# -- line_error_run


def test_every_account_with_a_call_in_the_run_is_told_once() -> None:
    drive = Drive()
    drive.take([account("bob", channels={"line_error_run": ["sms", "sms"]})])
    names = ["acme", "bob", "carol"]
    calls = [call(names[n % 3], n, result="W", line_id="broken") for n in range(100)]
    commands = drive.take(calls)
    assert sorted(told(commands)) == [
        ("line_error_run", "acme", "inbox"),
        ("line_error_run", "acme", "wechat"),
        ("line_error_run", "bob", "sms"),
        ("line_error_run", "carol", "inbox"),
        ("line_error_run", "carol", "wechat"),
    ]
    assert {one["cause"]["line_id"] for one in commands} == {"broken"}


def test_another_result_on_the_line_ends_its_run_and_other_lines_dont() -> None:
    drive = Drive()
    wrong = [call("acme", n, result="W", line_id="broken") for n in range(99)]
    drive.take([*wrong, call("bob", 0, result="E", line_id="well")])
    drive.take([call("bob", 1, result="F", line_id="broken")])
    last = [call("acme", n, result="W", line_id="broken") for n in range(99, 199)]
    assert drive.take(last[:99]) == []
    assert scenarios(drive.take(last[99:])) == ["line_error_run"]


# -- announcement


def test_upgrade_and_service_go_to_every_account_that_has_a_record_then() -> None:
    drive = Drive()
    drive.take([account("acme"), account("bob"), account("gone")])
    drive.take([Published("accounts", "gone", None), call("stranger", 0)])
    for kind in ("upgrade", "service"):
        commands = drive.take([announcement(kind, kind=kind)])
        assert told(commands) == [
            ("announcement", "acme", "inbox"),
            ("announcement", "acme", "wechat"),
            ("announcement", "bob", "inbox"),
            ("announcement", "bob", "wechat"),
        ]
    assert drive.take([announcement("x", kind="internal"), announcement("upgrade")]) == []


# -- low_balance


def low(drive: Drive, index: int, balance: str, ended_at: str) -> list[dict[str, Any]]:
    return drive.take([call("acme", index, balance=balance, ended_at=ended_at)])


def test_taken_below_the_threshold_is_told_at_once_and_once_on_one_local_day() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50.00")])
    assert low(drive, 0, "50.00", "2019-01-30T10:00:00+08:00") == []
    commands = low(drive, 1, "49.99", "2019-01-30T10:00:01+08:00")
    assert told(commands) == [("low_balance", "acme", name) for name in ("inbox", "wechat", "sms")]
    assert commands[0]["cause"] == {"balance": "49.99", "threshold": "50.00"}
    assert low(drive, 2, "49.00", "2019-01-30T11:00:00+08:00") == []
    low(drive, 3, "80.00", "2019-01-30T12:00:00+08:00")
    assert low(drive, 4, "10.00", "2019-01-30T23:59:59+08:00") == []  # the same day
    low(drive, 5, "80.00", "2019-01-31T00:00:00+08:00")
    assert scenarios(low(drive, 6, "10.00", "2019-01-31T00:00:01+08:00")) == ["low_balance"]


def test_a_first_balance_below_the_threshold_is_told_at_once() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50.00")])
    assert scenarios(low(drive, 0, "1.00", "2019-01-30T10:00:00+08:00")) == ["low_balance"]


def test_a_tick_at_or_after_the_reminder_time_finds_it_low_once_a_day() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50.00")])
    low(drive, 0, "49.00", "2019-01-30T10:00:00+08:00")
    assert drive.take(tick("2019-01-30T12:00:00+08:00")) == []  # told today
    assert drive.take(tick("2019-01-31T08:59:59+08:00")) == []
    commands = drive.take(tick("2019-01-31T09:00:00+08:00"))
    assert scenarios(commands) == ["low_balance"]
    assert commands[0]["occurred_at"] == "2019-01-31T09:00:00+08:00"
    assert drive.take(tick("2019-01-31T09:01:00+08:00")) == []
    assert drive.take(tick("2019-01-30T09:00:00+08:00")) == []  # older than one seen


def test_ticks_that_were_missed_for_days_remind_once() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50.00")])
    low(drive, 0, "49.00", "2019-01-30T10:00:00+08:00")
    assert scenarios(drive.take(tick("2019-02-05T17:00:00+08:00"))) == ["low_balance"]


def test_a_recharge_that_leaves_the_balance_low_or_ends_it() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50.00")])
    commands = drive.take([recharge("acme", "r1", balance="20.00")])
    assert scenarios(commands) == ["recharge_received", "low_balance"]
    drive.take([recharge("acme", "r2", balance="120.00")])
    assert drive.take(tick("2019-01-31T09:00:00+08:00")) == []


def test_a_changed_threshold_counts_from_the_next_event_on() -> None:
    drive = Drive()
    low(drive, 0, "49.00", "2019-01-30T10:00:00+08:00")
    assert drive.take([account("acme", balance_threshold="50.00")]) == []
    assert drive.take(tick("2019-01-30T10:01:00+08:00"))[0]["scenario"] == "low_balance"


# -- recharge_received


def test_the_same_recharge_id_again_changes_nothing() -> None:
    drive = Drive()
    first = drive.take([recharge("acme", "r1")])
    assert told(first) == [("recharge_received", "acme", c) for c in ("inbox", "wechat", "sms")]
    assert drive.take([recharge("acme", "r1", balance="1.00")]) == []
    assert (
        scenarios(drive.take([recharge("acme", "r2"), recharge("bob", "r1")]))
        == ["recharge_received"] * 2
    )


# -- account_expiring


def test_within_the_notice_days_once_for_each_value() -> None:
    drive = Drive()
    drive.take([account("acme", expires_at="2019-02-10T12:00:00+08:00")])
    assert drive.take(tick("2019-02-03T11:59:59+08:00")) == []  # 7 · 24 h and a second before
    commands = drive.take(tick("2019-02-03T12:00:00+08:00"))
    assert told(commands) == [("account_expiring", "acme", c) for c in ("inbox", "wechat", "sms")]
    assert drive.take(tick("2019-02-04T12:00:00+08:00")) == []
    drive.take([account("acme", expires_at="2019-02-11T12:00:00+08:00")])
    assert scenarios(drive.take(tick("2019-02-05T09:00:00+08:00"))) == ["account_expiring"]
    drive.take([account("acme", expires_at="2019-02-10T04:00:00Z")])  # the first value again
    assert drive.take(tick("2019-02-06T09:00:00+08:00")) == []


def test_an_account_that_has_expired_or_a_tick_before_the_reminder_time_tells_nothing() -> None:
    drive = Drive()
    drive.take([account("acme", expires_at="2019-02-10T12:00:00+08:00")])
    assert drive.take(tick("2019-02-05T08:59:59+08:00")) == []
    assert drive.take(tick("2019-02-10T12:00:00+08:00")) == []


@pytest.mark.parametrize(
    ("at", "is_told"),
    [
        # On 2026-03-29 Berlin's clocks go from 02:00 to 03:00.
        ("2026-03-29T01:59:59+01:00", False),
        ("2026-03-29T03:00:00+02:00", True),
        # On 2026-10-25 they go from 03:00 back to 02:00.
        ("2026-10-25T02:29:59+02:00", False),
        ("2026-10-25T02:30:00+02:00", True),
        ("2026-10-25T02:30:00+01:00", True),
    ],
)
def test_days_and_reminder_times_are_local_also_when_clocks_change(at: str, is_told: bool) -> None:
    drive = Drive(zone=ZoneInfo("Europe/Berlin"), reminder_time=time(2, 30))
    drive.take([account("acme", balance_threshold="50.00")])
    low(drive, 0, "1.00", "2026-01-01T10:00:00+01:00")
    assert bool(drive.take(tick(at))) == is_told


# -- accounts


def test_channels_of_the_account_replace_the_default_list() -> None:
    drive = Drive()
    drive.take([account("acme", channels={"recharge_received": ["sms"], "low_balance": []})])
    assert told(drive.take([recharge("acme", "r1")])) == [("recharge_received", "acme", "sms")]


def test_a_deleted_account_is_forgotten_whole() -> None:
    drive = Drive(run_length=200)
    drive.take([account("acme", balance_threshold="50.00"), recharge("acme", "r1")])
    drive.take([*failures(99), call("acme", 500, balance="1.00", result="F")])
    drive.take([Published("accounts", "acme", None)])
    assert drive.keys() <= 2  # the partition's clock, and the line
    assert drive.take(failures(99)) == []
    assert drive.take(tick("2019-01-31T09:00:00+08:00")) == []


def test_state_stops_growing() -> None:
    drive = Drive(batch_retention_days=1)
    sizes = []
    for day in range(1, 25):
        at = f"2019-03-{day:02d}T10:00:00+08:00"
        for name in ("acme", "bob"):
            drive.take([account(name, balance_threshold="50.00",
                                expires_at=f"2019-03-{day + 2:02d}T00:00:00+08:00")])  # fmt: skip
            drive.take(
                [
                    call(name, n, ended_at=at, submitted_at=at, line_id=f"line-{day}-{n}",
                         call_id=f"{day}-{n}", balance="1.00")
                    for n in range(30)
                ]
            )  # fmt: skip
        for hour in range(11, 24):
            drive.take(tick(f"2019-03-{day:02d}T{hour}:00:00+08:00"))
        sizes.append(drive.keys())
    assert sizes[-1] == sizes[5]

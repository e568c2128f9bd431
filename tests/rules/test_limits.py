"""No value grows without an end, whatever one customer does; and no tick costs more for it."""

import json
import random
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agents.calls import segments
from agents.lines import _decode
from streams.decoding import CallsParsed
from streams.engine.state import State
from tables import line_accounts, recharges, state_tables
from tables.balances import Balance, tell
from tables.batches import Parked, submitted_of
from tables.clocks import MOST_AHEAD
from tables.lines import LineCall, LineRun, LineSegment
from tables.state_tables import PartitionClock
from tests.drive import Drive
from tests.installation import Published
from tests.samples import account, announcement, call, recharge, ticks

SHANGHAI = ZoneInfo("Asia/Shanghai")
GONE = Published("accounts", "acme", None)


def state_of(drive: Drive) -> State:
    (state,) = drive.engine.states
    return state


def longest(drive: Drive) -> int:
    """Bytes of the longest value."""
    drive.keys()  # commits
    base = state_of(drive)._base
    return max(len(value) for table in base.values() for value in table.values())


def alone(number: int, name: str = "acme", **fields: Any) -> Published:
    """A batch of one number."""
    at = f"2019-01-30T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}+08:00"
    return call(name, 0, **({"batch_size": 1, "submitted_at": at} | fields))


def tick(at: str) -> Published:
    return Published("ticks", None, {"at": at})


# -- one record -----------------------------------------------------------------------------------

_MANY = 100_000
SAMPLES = {
    one.topic: one
    for one in (
        call("acme", 0, result="W"),
        recharge("acme", "r1"),
        announcement("n1"),
        account("acme"),
        ticks("2019-01-30T15:52:10+08:00", 1)[0],
    )
}
# What a field may hold at length; in most fields most of it is invalid.
AT_LENGTH = {
    "text": '"' + "9" * _MANY + '"',
    "time": '"2019-01-30T15:52:10.' + "0" * _MANY + '+08:00"',
    "number": "5." + "0" * _MANY,
    "classes": '["A", "B"' + ', "A"' * _MANY + "]",
    "channels": '{"line_error_run": ["sms"'
    + ', "inbox"' * _MANY
    + '], "x": ["'
    + "x" * _MANY
    + '"]}',
    "objects": '{"x": [1' + ', {"y": 1e9}' * _MANY + "]}",
}
FIELDS = {
    "call-records": ("balance", "duration_s", "error"),
    "accounts": ("intent_classes", "balance_threshold", "expires_at", "channels"),
}


@pytest.mark.parametrize("topic", SAMPLES)
def test_whatever_a_valid_record_holds_at_length_what_is_kept_or_passed_on_of_it_is_short(
    topic: str,
) -> None:
    sample = SAMPLES[topic]
    valid = set()
    for field in (*sample.value, *FIELDS.get(topic, ()), "added_some_day"):
        for kind, text in AT_LENGTH.items():
            drive = Drive(run_length=2)
            if topic != "accounts":
                drive.take([account("acme", intent_classes=["A"])])
            # Others come first, so that all there is of the account is written again with it.
            drive.take([call("acme", 1, result="W")])
            rest = {name: one for name, one in sample.value.items() if name != field}
            raw = f'{json.dumps(rest)[:-1]}{"," if rest else ""}"{field}": {text}}}'.encode()
            drive.defer([sample._replace(value=raw)])
            if drive.dead_letters:
                continue
            valid.add((field, kind))
            while drive.deferred():
                assert len(drive.engine.waiting[0][1].value or b"") < 8_000, (field, kind)
                drive.go_on()
            drive.take([call("acme", 2, result="W"), *ticks("2019-01-30T16:00:00+08:00", 1)])
            assert all(len(one.value or b"") < 8_000 for one in drive.told), (field, kind)
            assert longest(drive) < 8_000, (field, kind)
    assert {("added_some_day", kind) for kind in AT_LENGTH} <= valid
    assert VALID_AT_LENGTH[topic] == {one for one in valid if one[0] != "added_some_day"}


VALID_AT_LENGTH = {
    "call-records": {
        ("submitted_at", "time"), ("ended_at", "time"), ("duration_s", "number"),
        *(("error", kind) for kind in ("text", "time")),
    },
    "recharges": {("completed_at", "time")},
    "announcements": {
        ("published_at", "time"), *(("content", kind) for kind in ("text", "time")),
    },
    "accounts": {
        ("intent_classes", "classes"), ("channels", "channels"), ("channels", "objects"),
        ("expires_at", "time"),
    },
    "ticks": {("at", "time")},
}  # fmt: skip


def test_a_time_of_many_digits_is_not_kept_to_be_looked_up_again() -> None:
    parsed = CallsParsed()
    before = parsed.instants["2019-01-30T15:52:10+08:00"]
    assert parsed.instants["2019-01-30T15:52:10." + "0" * 1_000 + "+08:00"] == before
    assert all(len(text) < 100 for text in (*parsed.instants, *parsed._hours))


def test_classes_that_0_1_0_remembered_at_length_are_copied_once_each() -> None:
    drive = Drive()
    drive.take([account("acme", intent_classes=["A"])])
    state = state_of(drive)
    customer = state.get(state_tables.CUSTOMERS, b"acme")
    assert customer is not None
    customer.intent_classes = "ABA" * 10_000
    told = drive.take([call("acme", 0, result="B")])
    assert {one["scenario"] for one in told} == {"interested_customer"}
    tally = state.peek(state_tables.TALLIES, b"acme")
    assert tally is not None
    assert tally.intent_classes == "AB"


def test_an_expiry_is_told_once_however_many_others_were_told_since() -> None:
    drive = Drive()
    told = []
    begin = datetime(2026, 3, 1, 10, tzinfo=SHANGHAI)
    for number in (*range(40), *range(40)):
        expires = (begin + timedelta(days=2, minutes=number)).isoformat()
        now = (begin + timedelta(seconds=len(told))).isoformat()
        told += drive.take([account("acme", expires_at=expires), tick(now)])
    causes = [one["cause"]["expires_at"] for one in told if one["channel"] == "inbox"]
    assert len(causes) == len(set(causes)) == 40
    # What is over can't be told any more: it is forgotten with the next that is told.
    later = begin + timedelta(days=30)
    expires = (later + timedelta(days=1)).isoformat()
    assert drive.take([account("acme", expires_at=expires), tick(later.isoformat())])
    customer = state_of(drive).peek(state_tables.CUSTOMERS, b"acme")
    assert customer is not None
    assert len(customer.told_expiries) == 1


# -- batches of one account -----------------------------------------------------------------------


def test_however_many_batches_an_account_has_no_value_gets_long() -> None:
    drive = Drive()
    drive.take(alone(number) for number in range(2_000))
    assert len(drive.commands) == 2 * 2_000
    assert longest(drive) < 1_000
    # A repeat of the first changes nothing still.
    assert drive.take([alone(0)]) == []


def test_a_deleted_account_takes_all_its_batches_along() -> None:
    drive = Drive()
    drive.take([account("acme"), account("acme2")])
    drive.take(alone(number) for number in range(500))
    drive.take([alone(1, "acme2"), alone(2, "acme2")])
    before = drive.keys()
    drive.take([GONE])
    # The customer, the tally, 499 parked and their list; nothing of the account whose id is longer.
    assert before - drive.keys() == 1 + 1 + 499 + 1
    # Nothing of it is known: the first call of it again is new.
    assert len(drive.take([alone(0)])) == 2


@pytest.mark.parametrize("is_of_0_1_0", [False, True])
def test_batches_that_are_over_are_swept_by_an_hour_s_ticks(is_of_0_1_0: bool) -> None:
    drive = Drive()
    drive.take([tick("2019-01-31T00:00:00+08:00")])
    drive.take(alone(number) for number in range(600))
    if is_of_0_1_0:
        state = state_of(drive)
        all_of_them = [submitted_of(key) for key in state.keys(state_tables.BATCHES)]
        state.put(state_tables.PARKED, b"acme", Parked(all_of_them))
    assert drive.keys() == 1 + 1 + 599 + 1  # the clock, the tally, the parked and their list
    over = datetime(2019, 2, 10, tzinfo=SHANGHAI)
    drive.take([tick(over.isoformat())])  # a new round begins, with all there is
    drive.take(alone(number, ended_at="2019-02-09T00:00:00+08:00") for number in range(600))
    drive.take([tick((over + timedelta(hours=1)).isoformat())])
    later, held = over + timedelta(days=10), [drive.keys()]
    for minute in range(125):
        drive.take([tick((later + timedelta(minutes=minute)).isoformat())])
        held.append(drive.keys())
    gone = [before - after for before, after in pairwise(held)]
    assert max(gone[1:]) <= 12  # a sixtieth of them each minute
    assert held[-1] == 1


# -- recharges ------------------------------------------------------------------------------------


def test_recharges_beyond_the_first_page_are_known_and_forgotten_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recharges, "MOST_IN_FIRST", 20)
    drive = Drive()
    drive.take([account("acme", channels={"recharge_received": ["inbox"]})])
    rng = random.Random(1)
    ids = [f"r{rng.randrange(2_000)}" for _ in range(4_000)]
    drive.take([recharge("acme", one) for one in ids])
    told = [one["cause"]["recharge_id"] for one in drive.commands]
    assert told == list(dict.fromkeys(ids))
    assert longest(drive) < 20 * 8 + 10
    drive.take([GONE])
    assert drive.keys() == 1  # the clock: how far `accounts` was read


# -- lines ----------------------------------------------------------------------------------------


def test_the_accounts_of_a_long_run_are_put_aside_and_all_told() -> None:
    drive = Drive(run_length=1_000)
    names = [f"{number:0>500}" for number in range(400)]
    failing = [
        call(names[index % 400], index, result="W", batch_size=10_000) for index in range(1_000)
    ]
    for begin in range(0, 990, 90):
        drive.take_at_once(failing[begin : begin + 90])
        assert longest(drive) < 250_000
    told = drive.take(failing[990:])
    assert sorted(one["account_id"] for one in told if one["channel"] == "inbox") == names
    assert not list(state_of(drive).keys(state_tables.LINE_ACCOUNTS))


def test_a_run_of_a_line_that_is_ended_takes_its_pages_along() -> None:
    drive = Drive(run_length=1_000)
    failing = [call(f"a{index}", 0, result="W", batch_size=9) for index in range(300)]
    drive.take(failing)
    state = state_of(drive)
    assert len(list(state.keys(state_tables.LINE_ACCOUNTS))) == 1
    drive.take([call("other", 0, result="E", batch_size=9)])
    assert not list(state.keys(state_tables.LINE_ACCOUNTS))


def test_who_said_otherwise_meanwhile_is_told_as_they_said_last() -> None:
    state, pages = State(0), 0
    line = LineRun(accounts={f"a{number}": ["sms"] for number in range(300)})
    line_accounts.put_aside(state, b"l", line)
    pages = line.pages
    everyone = line_accounts.all_of(state, b"l", pages, {"a7": ["inbox"], "b": None})
    assert (len(everyone), everyone["a7"], everyone["a8"]) == (301, ["inbox"], ["sms"])


def test_segments_are_bounded_by_bytes() -> None:
    calls = [LineCall(f"{n:0>512}", f"{n:0>512}", n) if n % 3 else None for n in range(1_500)]
    offsets = [n for n in range(1_500) if n % 3]
    made = list(segments(LineSegment("l", calls, 2, offsets)))
    assert max(map(len, made)) <= 1 << 18
    read = [_decode(one) for one in made]
    assert [one for part in read for one in part.calls] == calls
    assert [one for part in read for one in part.offsets] == offsets


def test_channels_named_again_and_again_are_remembered_once() -> None:
    drive = Drive(run_length=1)
    drive.take([account("acme", channels={"line_error_run": ["sms", "inbox"] * 10_000})])
    assert longest(drive) < 1_000
    told = drive.take([call("acme", 0, result="W")])
    assert [one["channel"] for one in told] == ["sms", "inbox"]


# -- low balances ---------------------------------------------------------------------------------


def test_calls_dated_in_other_years_dont_make_each_tick_tell_a_low_balance() -> None:
    drive = Drive()
    drive.take([account("acme", balance_threshold="50", channels={"low_balance": ["inbox"]})])
    for day in range(1, 21):
        at = f"2099-01-{day:02d}T12:00:00+08:00"
        drive.take([call("acme", 2 * day, balance="40", ended_at=at)])
        drive.take([call("acme", 2 * day + 1, balance="60", ended_at=at)])
    drive.take([call("acme", 100, balance="40", ended_at="2099-01-20T13:00:00+08:00")])
    told = drive.take([tick(f"2019-01-30T10:{minute:02d}:00+08:00") for minute in range(60)])
    assert len(told) == 1


def test_the_day_of_the_clock_is_remembered_through_any_number_of_others() -> None:
    balance = Balance()
    assert tell(balance, 1_000, 1_000)
    assert all(tell(balance, day, 1_000) for day in range(5_000, 5_100))
    assert not tell(balance, 1_000, 1_000)
    assert not tell(balance, 5_099, 1_000)


def test_no_day_of_many_is_told_twice() -> None:
    balance = Balance()
    days = [*range(5_000, 5_400), *range(6_000, 6_060, 2)]
    assert all(tell(balance, day, 9_999) for day in days)
    assert not any(tell(balance, day, 9_999) for day in days)
    assert len(balance.told_days) == 16
    # However they lie, what is remembered is bounded.
    assert all(tell(balance, day, 9_999) for day in range(10_001, 12_001, 2))
    assert len(balance.told_before) == 64


def test_each_low_account_is_looked_at_by_one_tick_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive()
    drive.take(account(f"a{n}", balance_threshold="50") for n in range(30))
    drive.take(call(f"a{n}", 0, balance="40") for n in range(30))
    looked: list[bytes] = []
    peek = State.peek

    def noted(self: State, table: Any, key: bytes) -> Any:
        if table is state_tables.CUSTOMERS:
            looked.append(key)
        return peek(self, table, key)

    monkeypatch.setattr(State, "peek", noted)
    drive.take([tick("2019-01-31T10:00:00+08:00")])
    assert len(looked) == 30
    drive.take([tick(f"2019-01-31T10:{minute:02d}:00+08:00") for minute in range(1, 60)])
    assert len(looked) == 30
    told = drive.take([tick("2019-02-01T10:00:00+08:00")])
    assert (len(looked), len(told)) == (60, 90)


# -- the clock ------------------------------------------------------------------------------------


NOON = 1_548_820_800_000  # 2019-01-30T12:00:00+08:00, in ms


@pytest.mark.parametrize(
    ("at", "is_valid"),
    [
        ("2019-01-31T12:00:00+08:00", True),  # 24 hours after its record's timestamp
        ("2019-01-31T12:00:00.001+08:00", False),
        ("2030-01-01T00:00:00+08:00", False),
        ("2018-01-01T00:00:00+08:00", True),
    ],
)
def test_a_tick_of_the_future_is_invalid(at: str, is_valid: bool) -> None:
    drive = Drive()
    drive.take([tick(at)], timestamp=NOON)
    assert drive.dead_letters == (not is_valid)
    assert all(reason.startswith("at: ") for reason in drive.reasons())


def test_a_tick_without_a_timestamp_may_say_anything() -> None:
    drive = Drive()
    drive.take([tick("2030-01-01T00:00:00+08:00")])
    assert drive.dead_letters == 0


def test_a_day_to_come_that_0_1_0_took_for_today_is_forgotten() -> None:
    drive = Drive()
    state = state_of(drive)
    state.put(state_tables.CLOCKS, b"", PartitionClock(NOON * 1000 + 10 * MOST_AHEAD, 3))
    drive.take([tick("2019-01-30T12:00:00+08:00")], timestamp=NOON)
    assert state.peek(state_tables.CLOCKS, b"") == PartitionClock(NOON * 1000, 3, is_checked=True)
    # Checked once: an old tick that somebody copies with its old timestamp changes nothing.
    drive.take([tick("2019-01-01T00:00:00+08:00")], timestamp=NOON - 30 * 86_400_000)
    assert state.peek(state_tables.CLOCKS, b"") == PartitionClock(NOON * 1000, 3, is_checked=True)

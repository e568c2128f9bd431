"""The header `dialwatch.cause`: which record each command comes of, by its real name."""

import json
from typing import Any

import pytest

from agents.dead_letters import attempts_of, dead_letter, own_headers
from streams.engine.types import Header
from tests.drive import Drive
from tests.installation import Published
from tests.samples import account, call

AT = "2019-01-30T16:00:00+08:00"
RECHARGE = Published(
    "recharges",
    "acme",
    {
        "recharge_id": "r1",
        "account_id": "acme",
        "amount": "1.00",
        "balance": "1.00",
        "completed_at": AT,
    },
)
ANNOUNCEMENT = Published(
    "announcements",
    "n1",
    {
        "announcement_id": "n1",
        "kind": "upgrade",
        "title": "t",
        "content": "c",
        "published_at": AT,
    },
)
WISHES = {
    "intent_classes": ["A"],
    "balance_threshold": "50.00",
    "expires_at": "2019-02-01T00:00:00+08:00",
}


def causes(drive: Drive) -> dict[str, set[str]]:
    """By scenario, what its commands name as their cause."""
    found: dict[str, set[str]] = {}
    for told in drive.told:
        scenario = json.loads(told.value or b"")["scenario"]
        found.setdefault(scenario, set()).add(dict(told.headers)["dialwatch.cause"].decode())
    return found


def test_every_scenario_s_commands_name_the_record_that_caused_them() -> None:
    drive = Drive(run_length=2)
    drive.take(
        [
            account("acme", **WISHES),  # offset 0
            call("acme", 0, result="A"),  # 1: interested
            call("acme", 1, result="F"),
            call("acme", 2, result="F"),  # 3: unreachable
            call("acme", 3, result="W"),
            call("acme", 4, result="W"),  # 5: the line
            call("acme", 0, batch_size=1, submitted_at=AT),  # 6: completes its batch
            RECHARGE,  # 7: arrived, and low: none was known before
            ANNOUNCEMENT,  # 8
            Published("ticks", None, {"at": "2019-01-31T10:00:00+08:00"}),  # 9: expiring, low
        ]
    )
    assert causes(drive) == {
        "interested_customer": {"call-records/0/1"},
        "unreachable_run": {"call-records/0/3"},
        "line_error_run": {"call-records/0/5"},
        "batch_completed": {"call-records/0/6"},
        "recharge_received": {"recharges/0/7"},
        "low_balance": {"recharges/0/7", "ticks/0/9"},
        "announcement": {"announcements/0/8"},
        "account_expiring": {"ticks/0/9"},
    }


def test_a_line_s_run_names_its_last_call_also_in_the_middle_of_a_poll() -> None:
    drive = Drive(run_length=3)
    results = ["W", "E", "W", "W", "F", "W", "W", "W", "W"]  # 0 … 8: three in a row end at 7
    drive.take_at_once([call("acme", index, result=one) for index, one in enumerate(results)])
    assert causes(drive)["line_error_run"] == {"call-records/0/7"}


def test_a_segment_that_was_cut_keeps_the_offsets_of_its_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agents.calls._MOST_BYTES", 10)
    monkeypatch.setattr("agents.calls._FEW_CALLS", 2)
    drive = Drive(run_length=4)
    results = ["E", "W", "W", "W", "W"]
    segments = drive.take_at_once(
        [call("acme", index, result=one) for index, one in enumerate(results)]
    )
    assert len(segments) == 3
    assert causes(drive)["line_error_run"] == {"call-records/0/4"}


def letter(headers: list[Header]) -> list[Header]:
    """The headers of a record's dead letter."""
    made: Any = dead_letter(
        "dead", topic="t", partition=1, offset=2, key=b"k", value=b"v", reason="x: y", at="2026",
        headers=headers,
    )  # fmt: skip
    return made.headers  # type: ignore[no-any-return]


def test_a_letter_carries_its_record_s_own_headers_first() -> None:
    own = [("trace", b"\xff"), ("dialwatch.cause", b"call-records/3/7"), ("trace", b"2")]
    made = letter(own)
    assert made[:3] == own
    assert own_headers(made) == own
    assert attempts_of(made) == 0


def test_attempts_count_on_from_the_second_time() -> None:
    own = [("trace", b"1")]
    second = letter([*own, ("dialwatch.attempts", b"1")])
    assert attempts_of(second) == 2
    assert own_headers(second) == own
    assert attempts_of(letter([*own, ("dialwatch.attempts", b"rubbish")])) == 0


def test_somebody_s_header_with_a_name_of_ours_stays_theirs() -> None:
    own = [("dialwatch.topic", b"mine"), ("x", b"")]
    made = letter(own)
    assert own_headers(made) == own
    assert dict(made)["dialwatch.topic"] == b"t"
    directly_before = [("x", b""), ("dialwatch.topic", b"mine")]
    assert own_headers(letter(directly_before)) == directly_before

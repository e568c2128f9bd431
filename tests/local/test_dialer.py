"""The simulated dialer: the same seed, the same day; and enough of everything in it."""

import json
from collections import Counter
from datetime import datetime
from itertools import groupby
from zoneinfo import ZoneInfo

import pytest

from app.local import LEAST_CALLS
from app.local.dialer import Dialer, Event
from streams.topics import ContractTopic

START = datetime(2026, 2, 14, 10, 0, tzinfo=ZoneInfo("Asia/Shanghai"))


def day(seed: int, calls: int = LEAST_CALLS) -> list[Event]:
    dialer = Dialer(seed=seed, calls=calls, start=START, partitions=4)
    return [*dialer.accounts(), *dialer.events()]


def test_the_same_seed_gives_the_same_records_byte_for_byte() -> None:
    assert day(1) == day(1)
    assert day(1) != day(2)


@pytest.mark.parametrize("seed", range(8))
def test_the_shortest_day_gives_reason_for_every_scenario(seed: int) -> None:
    events = day(seed)
    assert Counter(event.topic for event in events)[ContractTopic.ANNOUNCEMENTS] == 2
    assert any(event.topic is ContractTopic.RECHARGES for event in events)
    calls = [json.loads(one.value) for one in events if one.topic is ContractTopic.CALL_RECORDS
             and one.value.startswith(b'{"call_id":"call-')]  # fmt: skip
    unique = {call["call_id"]: call for call in calls}
    assert len(unique) == LEAST_CALLS < len(calls)  # some come twice
    assert any(float(call["balance"]) < 50 for call in calls)
    longest = {
        result: max(len(list(run)) for name, run in groupby(results) if name == result)
        for key, result in (("account-03", "F"), ("line-broken", "W"))
        for results in [
            [one["result"] for one in unique.values() if key in (one["account_id"], one["line_id"])]
        ]
    }
    assert longest["F"] >= 100
    assert longest["W"] >= 100

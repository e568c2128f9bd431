"""What is noticed and makes no command is counted by scenario and reason."""

from typing import Any, get_args

import pytest
from prometheus_client import REGISTRY

from streams.records import Scenario
from tests.drive import PARTITIONS, Drive
from tests.installation import Published
from tests.samples import account, announcement, call, recharge, ticks


def count(scenario: str, reason: str = "no_channel") -> float:
    value = REGISTRY.get_sample_value(
        "dialwatch_notifications_suppressed_total", {"scenario": scenario, "reason": reason}
    )
    assert value is not None, "it is 0 before it happens"
    return value


WISHES: dict[str, Any] = {
    "intent_classes": ["A"],
    "balance_threshold": "50.00",
    "expires_at": "2019-02-03T00:00:00+08:00",
}
CAUSES: dict[Scenario, list[Published]] = {
    "interested_customer": [call("acme", 0, result="A")],
    "batch_completed": [call("acme", 0, batch_size=1)],
    "unreachable_run": [call("acme", index, result="F") for index in range(2)],
    "line_error_run": [call("acme", index, result="W") for index in range(2)],
    "announcement": [announcement("n1")],
    "low_balance": [call("acme", 0, balance="1.00")],
    "recharge_received": [recharge("acme", "r1")],
    "account_expiring": ticks("2019-01-30T10:00:00+08:00", PARTITIONS),
}


@pytest.mark.parametrize("scenario", get_args(Scenario))
def test_no_channel_is_wanted(scenario: Scenario) -> None:
    drive = Drive(run_length=2)
    drive.take([account("acme", **WISHES, channels={scenario: []})])
    before = count(scenario)
    assert drive.take(CAUSES[scenario]) == []
    assert count(scenario) == before + 1


def test_a_low_balance_was_told_that_day() -> None:
    drive = Drive()
    drive.take([account("acme", **WISHES)])
    before = count("low_balance", "told_today")
    drive.take([call("acme", n, balance=f"{money}.00") for n, money in enumerate([1, 60, 2])])
    assert count("low_balance", "told_today") == before + 1

"""Folds read no clock: when something was delivered or buried is given to them, in one format."""

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agents.dispatch import DispatchAgent
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Output
from streams.topics import Topics

NOW = 1_548_834_730_123_456
SAID = "2019-01-30T15:52:10.123+08:00"


@pytest.mark.parametrize("valid", [True, False])
def test_the_moment_of_a_delivery_and_of_a_dead_letter_is_the_chunk_s(valid: bool) -> None:
    command = {
        "notification_id": "n1",
        "scenario": "low_balance",
        "account_id": "acme",
        "channel": "inbox",
        "occurred_at": "2019-01-30T15:00:00+08:00",
        "title": "t",
        "content": "c",
        "page": "finance",
        "cause": {},
    }
    out: list[Output] = []
    value = json.dumps(command).encode() if valid else b"rubbish"
    record: Any = type("Record", (), {"offset": 0, "key": b"acme", "value": value, "headers": []})
    agent = DispatchAgent(Topics("", "g", 1), ZoneInfo("Asia/Shanghai"))
    agent.fold(Chunk(TP("notifications", 0), [record], State(0), out.append, lambda: None, now=NOW))
    if valid:
        (delivery,) = (json.loads(one.value or b"") for one in out if one.topic == "deliveries")
        assert delivery["at"] == SAID
    else:
        (letter,) = out
        assert dict(letter.headers)["dialwatch.at"] == SAID.encode()

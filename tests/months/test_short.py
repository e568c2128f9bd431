"""Months in memory: what half a year's legs and ticks leave is what the oracle says. No Kafka."""

import json
import random
from datetime import time
from typing import Any

import pytest

from agents.register import watching
from agents.rules import Rules
from streams.engine.memory import MemoryEngine, MemoryRecord
from streams.engine.types import TP, Output
from streams.topics import Topics
from tests.faults.books import _expected, _remembered
from tests.faults.history import RUN_LENGTH, SHARED_LINE, ZONE, Event
from tests.months.history import BEGAN, Months
from tests.oracle import comparable, normalized

PARTITIONS = 4
LEGS = 24
CALLS = 150
LATER_MS = 4_000_000_000_000
"""When all of it was published: no tick is of the future."""


@pytest.mark.parametrize("seed", range(2))
def test_half_a_year_of_calls_ticks_and_changes_is_told_and_remembered_right(seed: int) -> None:
    history, commands = Months(random.Random(seed), PARTITIONS), list[Any]()
    rules = Rules(zone=ZONE, run_length=RUN_LENGTH, reminder_time=time(9))
    topics, letters = Topics("", "g", PARTITIONS), list[Output]()

    def keep(_: TP, output: Output) -> None:
        if output.topic == topics.notifications:
            commands.append(json.loads(output.value or b""))
        else:
            letters.append(output)

    engine = MemoryEngine(watching(rules, topics), PARTITIONS, keep)
    offset = 0

    def fold(events: list[Event]) -> None:
        nonlocal offset
        for topic, key, value, partition in events:
            raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
            record = MemoryRecord(offset, LATER_MS, None if key is None else key.encode(), raw)
            engine.fold(TP(topic, partition), [record])
            offset += 1

    for _ in range(LEGS):
        for events in history.next_leg():
            fold(events)
        fold(history.some(CALLS))
        fold(history.announcement(history.legs))
        fold(history.some(CALLS))
    fold(history.after_legs())
    for state in engine.states:
        state.seal()
        state.apply()

    assert (history.now - BEGAN).days > 120
    own = [normalized(one) for one in commands if one["cause"].get("line_id") != SHARED_LINE]
    assert comparable(own) == comparable(history.oracle.noticed)
    assert len(letters) == history.oracle.invalid
    remembered, expected = _remembered(engine.states), _expected(history.oracle, history)
    for name in expected:
        assert remembered[name] == expected[name], name

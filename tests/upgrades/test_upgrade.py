"""What 0.1.0 left in Kafka is read by this version, and everybody is told what 0.1.0 would have."""

import gzip
import json
from collections import Counter
from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agents.register import watching
from agents.rules import Rules
from streams.engine.memory import MemoryEngine, MemoryRecord
from streams.engine.types import TP, Output
from streams.topics import Topics

FIXTURE = Path(__file__).with_name("0.1.0.json.gz")
CASES: list[dict[str, Any]] = json.loads(gzip.decompress(FIXTURE.read_bytes()))
PARTITIONS = 3
MORE_RUNS = {5: 2}
"""By case: how many alerts by runs that went on over ticks of days."""


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_state_and_the_unread_records_of_0_1_0_go_on(number: int) -> None:
    case, told = CASES[number], list[dict[str, Any]]()
    topics = Topics("", "g", PARTITIONS)
    rules = Rules(zone=ZoneInfo(case["zone"]), reminder_time=time(2, 30), **case["rules"])

    def keep(_: TP, output: Output) -> None:
        if output.topic == topics.notifications:
            told.append(json.loads(output.value or b""))

    engine = MemoryEngine(watching(rules, topics), PARTITIONS, keep)
    for partition, key, value in case["state"]:
        engine.states[partition].restore([(bytes.fromhex(key), bytes.fromhex(value))])
    for topic, partition, key, value in case["unread"]:
        record = MemoryRecord(0, 0, bytes.fromhex(key), bytes.fromhex(value))
        engine.fold(TP(topic, partition), [record])
    for offset, (topic, key, value, partition) in enumerate(case["events"], case["offset"]):
        raw = None if value is None else value.encode()
        record = MemoryRecord(offset, -1, None if key is None else key.encode(), raw)
        engine.fold(TP(topic, partition), [record])
    # The same causes, under the same ids: what 0.1.0 told already is known by them.
    ids = Counter(one["notification_id"] for one in told)
    assert Counter(case["told"]) - ids == Counter()
    # But in 0.1.0 ticks ended runs.
    more = [one["scenario"] for one in told if one["notification_id"] not in case["told"]]
    assert more == ["unreachable_run"] * MORE_RUNS.get(number, 0)


def test_the_fixture_holds_all_kinds_of_what_stands_in_kafka() -> None:
    prefixes = {bytes.fromhex(key)[:1] for case in CASES for _, key, _ in case["state"]}
    assert prefixes >= {b"a", b"c", b"b", b"l", b"r", b"n", b"t"}
    topics = {topic for case in CASES for topic, *_ in case["unread"]}
    assert {name.removeprefix("g-") for name in topics} >= {"line-segments", "fan-outs"}
    assert all(case["told"] for case in CASES)

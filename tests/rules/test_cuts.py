"""However a partition's calls are cut into polls, the same is said of accounts in the same order,
and the same is remembered."""

import json
from functools import cache
from zoneinfo import ZoneInfo

import pytest

from agents.register import watching
from agents.rules import Rules
from streams.engine.memory import MemoryEngine, MemoryRecord
from streams.engine.types import TP, Output
from streams.topics import Topics
from tests.bench.load import account_records, call_records

_CALLS = 3_000
_ACCOUNTS = 12


@cache
def records() -> list[MemoryRecord]:
    """Calls of few accounts, repeats among them; some are cut off, some don't fit their batch."""
    made = []
    for offset, (key, value) in enumerate(call_records(_CALLS, _ACCOUNTS, "campaigns")):
        said = value
        if offset % 97 == 96:
            said = value[:-1]
        elif offset % 101 == 100:
            call = json.loads(value)
            said = json.dumps(call | {"batch_size": call["batch_size"] + 1}).encode()
        made.append(MemoryRecord(offset, 0, key, said))
    return made


def folded(cut: int) -> tuple[list[Output], list[bytes], dict[bytes, dict[bytes, bytes]]]:
    """Return what is said of accounts, what is said of lines, and what is remembered."""
    topics = Topics("", "g", 1)
    told: list[Output] = []
    rules = Rules(ZoneInfo("Asia/Shanghai"), run_length=4)
    engine = MemoryEngine(watching(rules, topics), 1, lambda _, output: told.append(output))
    accounts = account_records(_ACCOUNTS)
    engine.fold(TP(topics.accounts, 0), [MemoryRecord(0, 0, *one) for one in accounts])
    for begin in range(0, _CALLS, cut):
        engine.fold(TP(topics.calls, 0), records()[begin : begin + cut])
    engine.end_cycle()
    state = engine.states[0]
    lines = [one for one in told if b'"line_error_run"' in (one.value or b"")]
    others = [one for one in told if one not in lines]
    return (
        others,
        sorted(one.value or b"" for one in lines),
        {prefix: dict(values) for prefix, values in state._base.items()},
    )


@pytest.mark.parametrize("cut", [7, 500, _CALLS])
def test_calls_cut_into_polls_say_the_same_in_the_same_order(cut: int) -> None:
    one_by_one = folded(1)
    said = b"".join(one.value or b"" for one in one_by_one[0] if one.topic == "notifications")
    for scenario in (b"interested_customer", b"batch_completed", b"unreachable_run"):
        assert scenario in said
    assert one_by_one[1]

    assert folded(cut) == one_by_one

"""Replays of random histories: the same commands in the same order, whoever folds and however."""

import json
import random
from collections import Counter
from datetime import datetime, time, timedelta

import pytest

from agents.rules import Rules
from app.analysis import refold
from app.analysis.jobs import slices_of
from app.analysis.partition_logs import FileRecord, Logs
from app.analysis.refold import Question
from app.analysis.variants import Lengths, Variant
from app.operations.moved import MOVED, trail_of
from streams.engine.types import TP, Header
from streams.times import HOUR
from streams.topics import partition_of
from tests.analysis.memory import TOPICS, ZONE, MemoryLogs, replayed
from tests.samples import account, call
from tests.test_histories import PARTITIONS, Dated, History

RULES = Rules(
    zone=ZONE,
    run_length=3,
    run_window_hours=2,
    reminder_time=time(2, 30),
    expiry_notice_days=3,
    batch_retention_days=1,
)
VARIANTS = [Variant(length, window) for length in (2, 3, 5) for window in (0.5, 2.0)]


def history(seed: int) -> list[Dated]:
    """Accounts first, as a replay takes them anyhow; half of them without any tick for a while."""
    events = History(seed, ZONE).events(500)
    if seed % 2:
        events = [one for n, one in enumerate(events) if one[0] != "ticks" or n > 200]
    return events


@pytest.mark.parametrize("seed", range(12))
def test_variants_in_one_pass_say_what_each_says_alone(seed: int) -> None:
    events = history(seed)
    together, _ = replayed(MemoryLogs(events), RULES, VARIANTS)
    alone = [replayed(MemoryLogs(events), RULES, [one])[0][0] for one in VARIANTS]
    assert together == alone
    assert len({len(commands) for commands in alone}) > 2  # they do differ


@pytest.mark.parametrize("seed", range(6))
def test_what_comes_out_hangs_neither_on_polls_nor_on_who_folds(seed: int) -> None:
    rng, events = random.Random(seed), history(seed)
    whole, seen = replayed(MemoryLogs(events), RULES, VARIANTS[:2])
    for _ in range(3):
        logs = MemoryLogs(events, at_once=rng.choice([1, 2, 7, 1000]))
        assert replayed(logs, RULES, VARIANTS[:2])[0] == whole
    shares = [list(range(PARTITIONS))[begin::2] for begin in range(2)]
    parted, also = replayed(MemoryLogs(events), RULES, VARIANTS[:2], shares)
    assert parted == whole
    assert (also.records, also.invalid) == (seen.records, seen.invalid)
    assert seen.invalid > 0


@pytest.mark.parametrize("begins", [0, 1])
def test_invalid_accounts_are_counted_each_once_whoever_folds(begins: int) -> None:
    at = datetime(2026, 1, 1, tzinfo=ZONE)
    events: list[Dated] = [
        ("accounts", f"a{number}", {"account_id": "another"}, number % PARTITIONS, at)
        for number in range(3 * PARTITIONS)
    ]
    # Without any other record, too.
    events += [("call-records", None, b"rubbish", number, at) for number in range(begins)]
    _, seen = replayed(MemoryLogs(events), RULES, VARIANTS[:1])
    shares = [list(range(PARTITIONS))[begin::2] for begin in range(2)]
    _, also = replayed(MemoryLogs(events), RULES, VARIANTS[:1], shares)
    assert seen.invalid == also.invalid == 3 * PARTITIONS + begins


def test_a_slice_that_is_full_goes_on_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    # All in one second: whose turn it is hangs on counts alone.
    events, end = history(3), 1 << 42
    monkeypatch.setattr(refold, "_SLICE_RECORDS", 8)
    whole, _ = replayed(MemoryLogs(events, at_ms=end), RULES, VARIANTS[:1])
    assert replayed(MemoryLogs(events, at_ms=end, at_once=3), RULES, VARIANTS[:1])[0] == whole


def test_a_line_s_calls_from_several_partitions_meet_by_their_times() -> None:
    """Three errors of one account within ten seconds, between them one good call of another's."""

    def call(number: int, name: str, result: str, partition: int, second: int) -> Dated:
        value = {
            "call_id": f"c{number}", "account_id": name, "line_id": "line-1", "result": result,
            "phone": "1", "submitted_at": "2026-01-01T00:00:00Z", "batch_size": 9,
            "batch_index": number, "ended_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        at = datetime(2026, 1, 1, 0, 0, second, tzinfo=ZONE)
        return ("call-records", name, value, partition, at)

    for between, alerts in ((20, 0), (40, 2)):
        events = [call(n, "a", "W", 0, 10 + 10 * n) for n in range(3)]
        events.append(call(3, "b", "A", 1, between + 5))
        told, _ = replayed(MemoryLogs(events), RULES, [Variant(3, 2.0)])
        assert sum(b"line_error_run" in command for command in told[0]) == alerts


@pytest.mark.parametrize("seed", range(4))
def test_lengths_are_those_of_runs_that_nobody_cuts_off(seed: int) -> None:
    rng = random.Random(seed)
    lengths = Lengths([1.0, 3.0])
    calls = []
    at = 0
    for _ in range(300):
        at += rng.choice([1, 1, 1, 2, 4]) * HOUR // 2
        calls.append((rng.choice([b"a", b"b"]), at, rng.random() < 0.8))
    for key, ended, is_in_run in calls:
        lengths.count(key, ended, is_in_run=is_in_run)
    for hours, seen in lengths.end().items():
        naive: Counter[int] = Counter()
        for name in (b"a", b"b"):
            run: list[int] = []
            for key, ended, is_in_run in [*calls, (name, 1 << 60, False)]:
                if key != name:
                    continue
                if run and (not is_in_run or ended - run[-1] > hours * HOUR):
                    naive[len(run)] += 1
                    run = []
                if is_in_run:
                    run.append(ended)
        assert seen == naive


def test_lines_that_reach_in_one_second_are_told_in_one_order() -> None:
    # Two lines that live in one partition. The one that is mentioned first reaches last: how many
    # calls a read brought at once says nothing of who is told first.
    place = partition_of(b"line-0", PARTITIONS)
    other = next(
        name
        for name in (f"line-{number}" for number in range(1, 1000))
        if partition_of(name.encode(), PARTITIONS) == place
    )
    at = datetime(2026, 11, 17, 10, tzinfo=ZONE)
    accounts = [
        ("accounts", name, {"account_id": name, "name": name}, 0, at) for name in ("acme", "bolt")
    ]
    calls = [
        ("call-records", name, call(name, number, result="W", line_id=line).value, 0, at)
        for number, (name, line) in enumerate(
            [("acme", "line-0"), *[("bolt", other)] * 3, *[("acme", "line-0")] * 2]
        )
    ]
    whole = replayed(MemoryLogs([*accounts, *calls], at_once=1000, at_ms=0), RULES, VARIANTS[2:3])
    single = replayed(MemoryLogs([*accounts, *calls], at_once=1, at_ms=0), RULES, VARIANTS[2:3])
    assert sum(b"line_error_run" in command for command in whole[0][0]) == 4  # by two channels each
    assert single[0] == whole[0]


DAY_ONE = datetime(2026, 11, 17, 9, 30, tzinfo=ZONE)
LATER = timedelta(seconds=15)
NEXT_DAY = timedelta(days=1)
OLD = PARTITIONS - 1
"""How many partitions there were before an expansion."""


def at_home(partition: int) -> str:
    """Return an account of this partition, which would lie in another one of `OLD`."""
    names = (f"a{number}" for number in range(1000))
    return next(
        name
        for name in names
        if partition_of(name.encode(), PARTITIONS) == partition
        and partition_of(name.encode(), OLD) != partition
    )


def unopened() -> Logs:
    raise AssertionError("another process would open the logs")


def tick(partition: int, at: datetime, published: datetime | None = None) -> Dated:
    return "ticks", None, {"at": at.isoformat()}, partition, published or at


def expiring(name: str, partition: int) -> Dated:
    value = account(name, expires_at=(DAY_ONE + 2 * NEXT_DAY).isoformat()).value
    return "accounts", name, value, partition, DAY_ONE


def moved(name: str) -> tuple[list[Dated], dict[int, list[Header]]]:
    """Return what an expansion writes of an account, and its headers, where it comes first."""
    home, before = (partition_of(name.encode(), count) for count in (PARTITIONS, OLD))
    record = FileRecord(0, 0, name.encode(), b"")
    trail = trail_of(TP("accounts", before), record)
    tombstone = "accounts", name, None, before, DAY_ONE
    headers = {0: [(MOVED, str(home).encode())], 1: trail}
    return [tombstone, expiring(name, home)], headers


def told_at(told: list[list[bytes]]) -> set[str]:
    """Return when the account was told that it expires."""
    commands = [json.loads(command) for command in told[0]]
    return {one["occurred_at"] for one in commands if one["scenario"] == "account_expiring"}


def test_a_partition_that_was_only_ticked_later_gets_no_tick_of_another() -> None:
    """By a publisher of one's own, who first ticks some partitions and then another one."""
    last = PARTITIONS - 1
    second = DAY_ONE + timedelta(minutes=45)
    events = [expiring(at_home(last), last)]
    events += [tick(number, DAY_ONE) for number in range(last)]
    events += [tick(last, second, DAY_ONE + LATER)]
    whole, _ = replayed(MemoryLogs(events), RULES, VARIANTS[:1])
    assert told_at(whole) == {second.isoformat()}
    shares = [[number] for number in range(PARTITIONS)]
    assert replayed(MemoryLogs(events), RULES, VARIANTS[:1], shares)[0] == whole
    # Nor where there was an expansion, but no earlier number lacks a tick: it adds the highest.
    name = at_home(1)
    events, headers = moved(name)
    events += [tick(number, DAY_ONE) for number in range(PARTITIONS) if number != 1]
    events += [tick(1, second, DAY_ONE + LATER)]
    whole, _ = replayed(MemoryLogs(events, headers=headers), RULES, VARIANTS[:1])
    assert told_at(whole) == {second.isoformat()}


@pytest.mark.parametrize("is_ticked_since", [True, False])
@pytest.mark.parametrize("is_published_again", [True, False])
def test_a_partition_that_an_expansion_added_gets_the_ticks_of_before(
    *, is_ticked_since: bool, is_published_again: bool
) -> None:
    """Also where the account's newer record no longer says that it was moved."""
    name = at_home(PARTITIONS - 1)
    home, before = (partition_of(name.encode(), count) for count in (PARTITIONS, OLD))
    events, headers = moved(name)
    if is_published_again:
        events, headers = [expiring(name, home)], {}
    events += [tick(number, DAY_ONE) for number in range(OLD)]
    calls = [call(name, number, result="F").value for number in range(3)]
    events += [("call-records", name, one, before, DAY_ONE + LATER) for one in calls[:2]]
    events += [("call-records", name, calls[2], home, DAY_ONE + NEXT_DAY)]
    if is_ticked_since:
        events += [tick(number, DAY_ONE + NEXT_DAY) for number in range(PARTITIONS)]
    whole, _ = replayed(MemoryLogs(events, headers=headers), RULES, VARIANTS[1:2])
    assert told_at(whole) == {DAY_ONE.isoformat()}
    assert any(b"unreachable_run" in command for command in whole[0])
    # One process folds it, however many are asked for: the ticks are those of another partition.
    question, logs = Question(RULES, TOPICS, (VARIANTS[2],)), MemoryLogs(events, headers=headers)
    one, two = (list(slices_of(question, logs, unopened, jobs)) for jobs in (1, 2))
    assert one == two

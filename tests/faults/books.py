"""Compares an installation with the oracle: the commands it sent, and its state.

The state is read from the changelog as a new worker would restore it, so that an error in it is
found even before it leads to a wrong command.
"""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

from app.sandbox.server import Sandbox
from streams.engine.outbox import UNFINISHED
from streams.engine.state import State, Table
from streams.times import DAY, parse_instant
from tables import batches, runs
from tables.balances import Balance
from tables.clocks import clock_of
from tables.state_tables import (
    ANNOUNCED,
    BATCHES,
    CUSTOMERS,
    LINES,
    RECHARGES,
    TALLIES,
)
from tests.faults.history import RETENTION, RUN_LENGTH, SHARED_LINE, WINDOW, History
from tests.installation import Installation
from tests.oracle import Oracle, Run, comparable, normalized

FINAL = {"sent", "skipped", "failed"}
_RETENTION = int(RETENTION.total_seconds()) * DAY // 86_400
_INSTANT_BYTES = 8


async def compare(installation: Installation, history: History, sandbox: Sandbox) -> None:
    """Raise AssertionError where anything is missing, too many or different."""
    oracle = history.oracle
    for topic in ("call-records", "recharges", "accounts", "ticks", "announcements"):
        stored = len(await installation.read(topic))
        assert stored == sum(event.topic == topic for event in history.published), topic

    every = await installation.read_values("notifications")
    shared = [one for one in every if one["cause"].get("line_id") == SHARED_LINE]
    commands = [one for one in every if one["cause"].get("line_id") != SHARED_LINE]
    assert comparable([normalized(one) for one in commands]) == comparable(oracle.noticed)
    _compare_shared_line(shared, history)
    assert len(await installation.read("dead-letters")) == oracle.invalid

    ids = Counter(one["notification_id"] for one in every)
    assert set(ids.values()) <= {1}
    deliveries = [
        one for one in await installation.read_values("deliveries") if one["status"] in FINAL
    ]
    assert Counter(one["notification_id"] for one in deliveries) == ids
    assert not [one for one in deliveries if one["status"] == "failed"]
    sent = {
        channel: {
            one["notification_id"]
            for one in deliveries
            if one["status"] == "sent" and one["channel"] == channel
        }
        for channel in ("inbox", "wechat", "sms")
    }
    inbox = Counter(one["message_id"] for one in await installation.read_values("inbox-messages"))
    assert inbox == Counter(sent["inbox"])
    phones = Counter(one.client_msg_id for one in sandbox.wechat.messages)
    assert phones == Counter(sent["wechat"])
    assert set(sandbox.gateway.texts) == sent["sms"]

    states = await recovered(installation, history.partitions)
    remembered, expected = _remembered(states), _expected(oracle, history)
    for name in _NAMES:
        assert remembered[name] == expected[name], (
            f"{name}: {_first_differences(remembered[name], expected[name])}"
        )


async def difference(installation: Installation, history: History) -> str:
    """Return a text that says which commands are missing and which are too many."""
    every = await installation.read_values("notifications")
    found = Counter(
        comparable([normalized(one) for one in every if one["cause"].get("line_id") != SHARED_LINE])
    )
    right = Counter(comparable(history.oracle.noticed))
    return f"missing {list(right - found)[:3]}, too many {list(found - right)[:3]}"


def shared_alerts(history: History) -> int:
    """Return how often the shared line's run reaches its length."""
    return sum(calls // RUN_LENGTH for calls in history.shared_calls)


def _compare_shared_line(commands: list[dict[str, Any]], history: History) -> None:
    """Check the number of the shared line's alerts, since each call counts once. Which accounts'
    calls are in which alert can't be known."""
    reached = {(one["cause"]["first_call_id"], one["cause"]["call_id"]) for one in commands}
    assert len(reached) == shared_alerts(history)
    firsts, lasts = {first for first, _ in reached}, {last for _, last in reached}
    assert len(firsts) == len(lasts) == len(reached)
    on_it = {
        event.key
        for event in history.published
        if event.topic == "call-records"
        and isinstance(event.value, dict)
        and event.value["line_id"] == SHARED_LINE
    }
    assert {one["account_id"] for one in commands} <= on_it


async def recovered(installation: Installation, partitions: int) -> list[State]:
    """Return the states, restored from the changelog's committed records."""
    states = [State(number) for number in range(partitions)]
    for record in await installation.read_named(installation.topics.changelog):
        states[record.partition].restore([(record.key, record.value)])
    return states


def _all_of(state: State, table: Table[Any]) -> dict[bytes, Any]:
    return {key: state.peek(table, key) for key in state.keys(table)}


def _remembered(states: list[State]) -> dict[str, Any]:
    """Return the states in the oracle's form. What is over counts as forgotten, even if no tick has
    removed it yet."""
    found: dict[str, Any] = {name: {} for name in _NAMES}
    retention = int(WINDOW.total_seconds()) * DAY // 86_400 + 366 * DAY
    for state in states:
        assert not list(state.keys(UNFINISHED)), "a sender's record is unfinished"
        clock = clock_of(state)
        for key, tally in _all_of(state, TALLIES).items():
            name = key.decode()
            if not runs.is_forgotten(tally.run, clock.tick, retention):
                found["runs"][name] = tally.run.count
            batch = tally.batch
            if batch is not None and not batches.is_forgotten(batch, clock, _RETENTION):
                found["batches"][name, tally.submitted] = batch.size, batch.seen
            if tally.balance.latest is not None:
                found["balances"][name] = tally.balance.latest
                found["told_days"] |= {(name, day): True for day in _told(tally.balance)}
        for key, batch in _all_of(state, BATCHES).items():
            if not batches.is_forgotten(batch, clock, _RETENTION):
                instant = int.from_bytes(key[-_INSTANT_BYTES:], "big", signed=True)
                found["batches"][key[:-_INSTANT_BYTES].decode(), instant] = batch.size, batch.seen
        for key, line in _all_of(state, LINES).items():
            if not runs.is_forgotten(line.run, clock.tick, retention):
                found["lines"][key.decode()] = line.run.count
        for key, customer in _all_of(state, CUSTOMERS).items():
            found["accounts"][key.decode()] = customer.name, customer.intent_classes
        for key, known in _all_of(state, RECHARGES).items():
            found["recharges"][key.decode()] = len(known.hashes) // 8
        for key in state.keys(ANNOUNCED):
            found["announced"][state.partition, key.decode()] = True
    return found


def _told(balance: Balance) -> set[int]:
    before = (range(first, last + 1) for first, last in balance.told_before)
    return set(balance.told_days).union(*before)


_NAMES = (
    "runs", "batches", "lines", "balances", "told_days", "accounts", "recharges", "announced",
)  # fmt: skip


def _first_differences(found: dict[Any, Any], right: dict[Any, Any]) -> str:
    keys = [key for key in {**found, **right} if found.get(key) != right.get(key)]
    return ", ".join(f"{key} is {found.get(key)}, not {right.get(key)}" for key in keys[:3])


def _expected(oracle: Oracle, history: History) -> dict[str, Any]:
    expected: dict[str, Any] = {name: {} for name in _NAMES}
    kept = WINDOW + timedelta(days=366)

    def count(run: Run, key: str) -> int:
        tick = oracle.last_tick.get(oracle.partition_of(key))
        is_over = tick is not None and run.counted is not None and tick - run.counted > kept
        return 0 if is_over else len(run.calls)

    for place, counted in ((expected["runs"], oracle.runs), (expected["lines"], oracle.lines)):
        place.update((key, count(run, key)) for key, run in counted.items() if count(run, key))
    left = history.shared_calls[-1] % RUN_LENGTH
    if left:
        expected["lines"][SHARED_LINE] = left
    for (name, submitted), batch in oracle.batches.items():
        key = name, parse_instant(submitted.isoformat())
        expected["batches"][key] = batch.size, len(batch.seen)
    for name, balance in oracle.balances.items():
        expected["balances"][name] = int(balance * Decimal(100))
    expected["told_days"] = {(name, day.toordinal()): True for name, day in oracle.told_days}
    for name, account in oracle.accounts.items():
        classes = "".join(account["intent_classes"])
        expected["accounts"][name] = account["name"], classes
    expected["recharges"] = dict(Counter(name for name, _ in oracle.recharges))
    expected["announced"] = {
        (partition, event.key): True
        for event in history.published
        if event.topic == "announcements"
        for partition in range(history.partitions)
    }
    return expected

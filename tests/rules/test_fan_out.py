"""An announcement on its way to every account, whatever happens to its worker meanwhile."""

import random
from typing import Any

import pytest

from streams.engine.types import Chunk
from tests.drive import Drive
from tests.installation import Published
from tests.samples import account, announcement

INBOX = {"announcement": ["inbox"]}


def told(drive: Drive) -> list[str]:
    return sorted(one["account_id"] for one in drive.commands)


def test_a_fan_out_reaches_each_of_100_000_accounts_once() -> None:
    drive = Drive()
    drive.take(account(f"a{n}", channels=INBOX) for n in range(100_000))
    drive.take([Published("accounts", "a500", None)])
    commands = drive.take([announcement("up")])
    assert len({one["account_id"] for one in commands}) == len(commands) == 99_999
    assert drive.take([announcement("up")]) == []


@pytest.mark.parametrize("seed", range(5))
def test_each_account_that_has_a_record_then_is_told_once_when_workers_come_and_go(
    seed: int,
) -> None:
    rng, drive = random.Random(seed), Drive()
    (state,) = drive.engine.states
    before = [f"a{n:04}" for n in range(0, 7000, 2)]
    drive.take(account(name, channels=INBOX) for name in before)
    said = announcement("up")
    drive.defer([said, said])
    drive.go_on()  # "then" is when it begins
    deleted, portions = set(), 1
    while drive.deferred():
        # Another worker goes on: it has the state and the topic, nothing else.
        if rng.random() < 0.5:
            state.seal()
            state.apply()
            state.discard()
        name = rng.choice(before)
        if name not in told(drive):
            deleted.add(name)
        drive.defer([Published("accounts", name, None)])
        if rng.random() < 0.5:
            drive.defer([account(name, channels=INBOX)])  # too late: it has no record then
        drive.defer([account(f"a{rng.randrange(1, 7000, 2):04}", channels=INBOX)])
        portions += 1
        drive.go_on()
    assert portions >= 4
    assert told(drive) == sorted({*before} - deleted)


def test_accounts_made_anew_are_told_again_and_who_comes_later_is_not() -> None:
    drive = Drive()
    drive.take(account(f"a{n}", channels=INBOX) for n in range(9))
    assert len(drive.take([announcement("first")])) == 9
    drive._offset = 0  # the topic was made anew, and somebody decided to read it
    drive.take(account(f"a{n}", channels=INBOX) for n in range(3))
    assert len(drive.take([announcement("second")])) == 9
    # Between its beginning and its end somebody comes: too late for it.
    drive.take(account(f"b{n}", channels=INBOX) for n in range(1_100))
    drive.defer([announcement("third")])
    drive.go_on()
    drive.defer([account("z", channels=INBOX)])
    while drive.deferred():
        drive.go_on()
    assert "z" not in told(drive)
    assert "b1099" in told(drive)


@pytest.mark.parametrize("room", [1, 30, 2_000])
def test_a_portion_is_as_large_as_there_is_room_for(room: int) -> None:
    drive = Drive()
    drive.take(account(f"a{n:04}", channels=INBOX) for n in range(500))
    drive.defer([announcement("up"), announcement("again")])
    state, source = drive.engine.states[0], drive.engine.sources["g-fan-outs"]
    portions = []
    while drive.deferred():
        tp, record = drive.engine.waiting.popleft()
        before = len(drive.commands)
        left: list[Any] = [record]
        source.fold(
            Chunk(
                tp, left, state, drive.engine.emit, lambda: None,
                room=lambda: room - (len(drive.commands) - before),  # noqa: B023 (called at once)
            )
        )  # fmt: skip
        portions.append(len(drive.commands) - before)
    assert max(portions) <= max(room, 10)
    assert len(drive.commands) == 2 * 500
    assert told(drive) == sorted([f"a{n:04}" for n in range(500)] * 2)

"""An announcement on its way to every account, whatever happens to its worker meanwhile."""

import random

import pytest

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

"""Clocks that are wrong or set while the sender runs: nothing waits longer for it, and nothing is
repeated later."""

import asyncio

import msgspec
import pytest

from agents.channel import Entry, Message
from agents.outcomes import Outcome, Sent, TryLater, Unclear
from streams.times import SECOND
from tests.send.fakes import START, FakeChannel, MemoryLedger, World, notification
from tests.virtual_time import run_virtually

DAY = 86_400.0


def moments_of_n1(world: World) -> list[float]:
    """Bring one command to its end; return when it was tried."""

    async def main() -> None:
        world.take(notification("n1", "a"))
        await world.done()

    run_virtually(main())
    return world.channel.moments("n1")


def left_behind(**fields: object) -> MemoryLedger:
    """Return the ledger as a worker left it that had tried n1 once."""
    entry = {"coordinates": "g-wechat-outbox-0-0", "attempts": 1, "life": "old"} | fields
    ledger = MemoryLedger()
    ledger.entries["n1"] = msgspec.json.encode(msgspec.convert(entry, Entry))
    return ledger


@pytest.mark.parametrize(("pause_s", "waits_s"), [(3600.0, 3600), (2.0, 2), (None, 4500)])
def test_a_pause_that_a_clock_ahead_chose_is_no_longer_than_it_was_to_be(
    pause_s: float | None, waits_s: float
) -> None:
    at = START + int(30 * DAY * SECOND)
    world = World(ledger=left_behind(not_before=at, pause_s=pause_s))
    assert moments_of_n1(world) == [pytest.approx(waits_s)]


def test_a_pause_is_written_down_with_its_length() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        return TryLater("too often", 3600.0, 43117, 2)

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(notification("n1", "a"))
        await asyncio.sleep(1)
        await world.agent.on_revoked([0])

    run_virtually(main())
    entry = msgspec.json.decode(world.ledger.entries["n1"], type=Entry)
    assert (entry.not_before, entry.pause_s) == (START + 3600 * SECOND, 3600.0)


def test_a_doubt_ends_in_time_when_the_clock_is_set_back() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if asyncio.get_running_loop().time() == 0:
            asyncio.get_running_loop().call_later(60, setattr, world, "is_ahead_s", 0.0)
        return Unclear("ReadTimeout")

    world = World(FakeChannel(answer), is_ahead_s=3600.0)
    moments = moments_of_n1(world)
    assert 500 < moments[-1] < 600
    assert world.deliveries()[0].error == "uncertain"


def test_a_doubt_ends_in_time_when_the_machine_slept() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        world.is_ahead_s = 3600.0  # the event loop's clock stood still meanwhile
        return Unclear("ReadTimeout")

    world = World(FakeChannel(answer))
    assert moments_of_n1(world) == [0]
    assert world.deliveries()[0].error == "uncertain"


def test_a_doubt_ends_in_time_when_the_machine_slept_in_a_pause() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if is_repeat:
            asyncio.get_running_loop().call_later(0.5, setattr, world, "is_ahead_s", 3600.0)
        return Unclear("ReadTimeout")

    world = World(FakeChannel(answer))
    assert moments_of_n1(world) == [0, 1]
    assert world.deliveries()[0].error == "uncertain"


@pytest.mark.parametrize(("is_ahead_s", "is_repeated"), [(3600, False), (6, False), (2, True)])
def test_a_doubt_of_a_clock_ahead_began_nobody_knows_when(
    is_ahead_s: int, is_repeated: bool
) -> None:
    world = World(ledger=left_behind(doubt_since=START + is_ahead_s * SECOND))
    assert len(moments_of_n1(world)) == is_repeated
    assert (world.deliveries()[0].error == "uncertain") == (not is_repeated)


def test_a_doubt_of_a_clock_a_little_ahead_lasts_no_longer() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        return Unclear("ReadTimeout")

    world = World(FakeChannel(answer), left_behind(doubt_since=START + 4 * SECOND))
    assert moments_of_n1(world)[-1] < 600
    assert world.finished[0, 0] == pytest.approx(600)


def test_a_provider_that_drops_repeats_for_good_gets_one_whenever_it_began() -> None:
    world = World(FakeChannel(doubt_limit_s=None), left_behind(doubt_since=START + 3600 * SECOND))
    assert moments_of_n1(world) == [0]
    assert world.statuses() == {"n1": ["sent"]}


def test_what_is_no_longer_in_doubt_begins_a_doubt_of_its_own() -> None:
    answers: list[Outcome] = [Unclear("ReadTimeout"), Unclear("ReadTimeout"), Sent("1")]
    answers.insert(0, TryLater("busy", 3000.0))

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        return answers.pop(0)

    world = World(FakeChannel(answer))
    assert moments_of_n1(world) == [0, 3000, 3002, 3006]

"""What a message waits for before it may be sent: cut off there, it was sent to nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from agents.channel import Entry, Message
from agents.outcomes import Held, Outcome, Sent, Unclear
from app.channels.wechat.pace import Pace
from tests.send.fakes import FakeChannel, MemoryLedger, World, notification
from tests.virtual_time import run_virtually

Ready = Callable[[Message], Awaitable[Held | None]]


def ready_after(seconds: float) -> Ready:
    """Return a `ready` that takes so long."""

    async def ready(message: Message) -> None:
        await asyncio.sleep(seconds)

    return ready


def in_doubt(ledger: MemoryLedger) -> list[str]:
    """Return what the provider may have, as the ledger says."""
    entries = {name: msgspec.json.decode(one, type=Entry) for name, one in ledger.entries.items()}
    return [name for name, one in entries.items() if one.doubt_since and not one.deliveries]


@pytest.mark.parametrize("has_grace", [True, False])
def test_who_is_cut_off_while_waiting_is_not_in_doubt(has_grace: bool) -> None:
    ledger = MemoryLedger()

    async def main() -> None:
        world = World(
            FakeChannel(get_ready=ready_after(60)),
            ledger,
            most_at_once=64,
            grace_s=1.5 if has_grace else 0.0,
        )
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(100)])
        await asyncio.sleep(5)
        await world.agent.on_revoked([0])
        # At once: nothing is being sent that would be worth the wait.
        assert asyncio.get_running_loop().time() == 5
        assert (world.channel.attempts, ledger.entries) == ([], {})
        await asyncio.sleep(900)
        world = World(ledger=ledger)
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(100)])
        await world.done()
        assert set(map(tuple, world.statuses().values())) == {("sent",)}

    run_virtually(main())


def test_what_keeps_the_channel_from_being_ready_is_a_hold_and_no_attempt() -> None:
    async def ready(message: Message) -> Held | None:
        await asyncio.sleep(20)
        is_away = asyncio.get_running_loop().time() < 900
        return Held("token: ReadTimeout", 30.0) if is_away else None

    world = World(FakeChannel(get_ready=ready), most_at_once=64)

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(100)])
        await asyncio.sleep(60)
        assert [hold.detail for hold in world.agent.holds()] == ["token: ReadTimeout"]
        await asyncio.sleep(800)
        assert in_doubt(world.ledger) == world.channel.attempts == []
        await world.done()

    run_virtually(main())
    assert {one.attempts for one in world.deliveries()} == {1}


def test_a_hold_that_begins_while_others_get_ready_stops_them_too() -> None:
    places = iter(range(1000))

    async def ready(message: Message) -> None:
        await asyncio.sleep(next(places))

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.1)
        return Held("quota", 3600, 45009) if len(world.channel.attempts) == 1 else Sent("1")

    world = World(FakeChannel(answer, get_ready=ready), most_at_once=64)

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(64)])
        await asyncio.sleep(3600)
        assert len(world.channel.attempts) == 1
        await world.done()

    run_virtually(main())
    assert {one.status for one in world.deliveries()} == {"sent"}


@pytest.mark.parametrize("was_heard", [True, False])
def test_who_waited_for_the_store_gets_ready_anew_and_is_not_in_doubt_meanwhile(
    was_heard: bool,
) -> None:
    """Else all that waited for it would go out at one moment, whatever the pace."""

    class Ledger(MemoryLedger):
        async def write(self, notification_id: str, entry: Entry, **more: object) -> None:
            if len(asked) == 1 and was_heard:
                self.entries[notification_id] = msgspec.json.encode(entry)
            return await super().write(notification_id, entry, **more)  # type: ignore

    asked = []

    async def ready(message: Message) -> None:
        asked.append(message.message_id)
        ledger.is_away = len(asked) == 1
        if len(asked) == 2:
            assert in_doubt(ledger) == []

    ledger = Ledger()
    world = World(FakeChannel(get_ready=ready), ledger)

    async def main() -> None:
        world.take(notification("n1", "a"))
        await asyncio.sleep(900)
        ledger.is_away = False
        await world.done()

    run_virtually(main())
    assert asked == ["n1", "n1"]
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.attempts) == ("sent", 1)
    assert [is_repeat for _, _, is_repeat in world.channel.attempts] == [False]


@pytest.mark.parametrize("slow_s", [0.2, 2.5])
def test_who_got_a_slow_answer_of_the_store_gets_ready_anew(slow_s: float) -> None:
    """Redis isn't away, it only answers late: once, or always."""

    class Ledger(MemoryLedger):
        async def write(self, *given: Any, **more: Any) -> Any:
            now = asyncio.get_running_loop().time()
            if slow_s < 1 or 10 <= now < 10 + slow_s:
                await asyncio.sleep(slow_s if slow_s < 1 else 10 + slow_s - now)
            return await super().write(*given, **more)

    pace = Pace(50)

    async def ready(message: Message) -> None:
        await pace.wait()

    world = World(FakeChannel(get_ready=ready), Ledger(), most_at_once=64)

    async def main() -> None:
        world.take(*[notification(f"n{n}", f"a{n}") for n in range(900)])
        await world.done()

    run_virtually(main())
    assert {(one.status, one.attempts) for one in world.deliveries()} == {("sent", 1)}
    moments = sorted(at for at, _, _ in world.channel.attempts)
    assert len(moments) == 900
    most = max(sum(at <= one < at + 1 for one in moments) for at in moments)
    if slow_s > 1:  # what was asked in the last tenth of a second has its place still
        assert most <= 50 + 6


def test_revocation_is_immediate_for_who_waits_for_the_store() -> None:
    world = World(FakeChannel(get_ready=ready_after(1)))

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(3)])
        await asyncio.sleep(0.5)
        world.ledger.is_away = True
        await asyncio.sleep(100)
        await world.agent.on_revoked([0])
        assert asyncio.get_running_loop().time() == pytest.approx(100.5)

    run_virtually(main())


STALE = Held("token: expired", 5.0, 42001, is_stale=True)


def test_what_was_sent_with_a_stale_token_goes_again_at_once_and_is_not_in_doubt() -> None:
    ledger = MemoryLedger()

    async def ready(message: Message) -> None:
        if world.channel.attempts:
            await asyncio.sleep(60)  # the token is renewed

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.1)
        return STALE if len(world.channel.attempts) == 1 else Sent("1")

    world = World(FakeChannel(answer, get_ready=ready), ledger)

    async def main(is_cut_off: bool) -> World:
        world.take(notification("n1", "a"))
        await asyncio.sleep(10)
        assert world.agent.holds() == in_doubt(ledger) == []
        if not is_cut_off:
            await world.done()
            return world
        await world.agent.on_revoked([0])
        await asyncio.sleep(900)
        successor = World(ledger=ledger)
        successor.take(notification("n1", "a"))
        await successor.done()
        return successor

    for is_cut_off in (False, True):
        ledger.entries.clear()
        world = World(FakeChannel(answer, get_ready=ready), ledger)
        (delivery,) = run_virtually(main(is_cut_off)).deliveries()
        assert (delivery.status, delivery.attempts) == ("sent", 1)


def test_who_is_told_twice_in_a_row_that_the_token_is_stale_holds_the_channel() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.1)
        return STALE if asyncio.get_running_loop().time() < 12 else Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(notification("n1", "a"))
        await asyncio.sleep(1)
        assert [hold.reason for hold in world.agent.holds()] == ["42001"]
        assert in_doubt(world.ledger) == []
        await world.done()

    run_virtually(main())
    # Twice, and then a probe each time that the hold is over.
    assert world.channel.moments("n1") == pytest.approx([0, 0.1, 5.2, 10.3, 15.4], abs=0.01)


def test_a_message_in_doubt_is_repeated_in_time_or_not_at_all_however_long_it_gets_ready() -> None:
    async def ready(message: Message) -> None:
        await asyncio.sleep(900 if world.channel.attempts else 0)

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        return Unclear("ReadTimeout")

    world = World(FakeChannel(answer, get_ready=ready))

    async def main() -> None:
        world.take(notification("n1", "a"), notification("n2", "a"))
        await asyncio.sleep(1000)
        await world.agent.on_revoked([0])

    run_virtually(main())
    assert world.channel.moments("n1") == [0]
    assert world.deliveries()[0].error == "uncertain"
    assert world.finished[0, 0] == pytest.approx(600)


def test_a_customers_messages_stay_in_order_whoever_is_ready_first() -> None:
    waits = {"n0": 3.0, "n1": 0.0, "n2": 1.0}

    async def ready(message: Message) -> None:
        await asyncio.sleep(waits[message.message_id])

    world = World(FakeChannel(get_ready=ready))

    async def main() -> None:
        world.take(*[notification(name, "a") for name in waits])
        await world.done()

    run_virtually(main())
    assert [name for _, name, _ in world.channel.attempts] == ["n0", "n1", "n2"]

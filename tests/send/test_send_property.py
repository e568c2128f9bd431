"""Whatever providers answer, workers die of and Redis does: one delivery each, in order."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.channel import Entry, Message
from agents.outcomes import Held, Outcome, Refused, Sent, TryLater, Unclear
from streams.records import Delivery, Notification
from tests.send.fakes import FakeChannel, MemoryLedger, World, notification
from tests.virtual_time import run_virtually

ANSWERS = [
    "sent",
    "taken, no answer",
    "lost",
    "busy",
    "no connection",
    "refused",
    "held",
    "stale",
    "slow",
]
DEDUPLICATED_SECONDS = 600.0


@dataclass
class Provider:
    """Answers as drawn, and knows what the customers' phones show."""

    answers: dict[str, list[str]]
    waits: list[float] = field(default_factory=list)
    """How long the next messages get ready; one in vain where it is negative."""
    shown: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    _taken_at: dict[str, float] = field(default_factory=dict)

    async def ready(self, message: Message) -> Held | None:
        wait_s = self.waits.pop() if self.waits else 0.0
        await asyncio.sleep(abs(wait_s))
        return Held("token", 1.0) if wait_s < 0 else None

    async def answer(self, message: Message, is_repeat: bool) -> Outcome:
        self.asked.add(message.message_id)
        await asyncio.sleep(0.05)
        left = self.answers.get(message.message_id, [])
        match left.pop(0) if left else "sent":
            case "sent":
                return self._take(message)
            case "taken, no answer":
                self._take(message)
                await asyncio.sleep(10)
                return Unclear("ReadTimeout")
            case "slow":
                self._take(message)
                await asyncio.sleep(5)
                return Sent()
            case "lost":
                return Unclear("HTTP 502", 502)
            case "busy":
                return TryLater("system busy", error_code=-1)
            case "no connection":
                return TryLater("ConnectError")
            case "stale":
                return Held("token", 5.0, 40001, is_stale=True)
            case "held":
                return Held("minute", 30.0, 48001)
            case _:
                return Refused("refused", 43101)

    def _take(self, message: Message) -> Sent:
        now = asyncio.get_running_loop().time()
        taken_at = self._taken_at.get(message.message_id)
        if taken_at is None or now - taken_at > DEDUPLICATED_SECONDS:
            self.shown.append(message.message_id)
            self._taken_at[message.message_id] = now
        return Sent(f"msg-{message.message_id}")


@dataclass
class Life:
    """How long one worker lives, how it ends, and when Redis is away meanwhile."""

    seconds: float
    is_killed: bool
    """Else its partition is taken away."""
    committed: float
    """Which part of what a killed worker finished was committed."""
    away_from: float
    away_seconds: float
    gap: float
    """Seconds until the next worker."""


lives = st.lists(
    st.builds(
        Life,
        seconds=st.floats(0.01, 700),
        is_killed=st.booleans(),
        committed=st.floats(0, 1),
        away_from=st.floats(0, 20),
        away_seconds=st.one_of(st.just(0.0), st.floats(0, 300)),
        gap=st.sampled_from([0.0, 10.0, 700.0]),
    ),
    max_size=4,
)
histories = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(ANSWERS), max_size=4)), max_size=12
)


async def live(
    life: Life | None,
    world: World,
    commands: dict[int, Notification],
    committed: dict[int, list[Delivery]],
) -> None:
    """Work off what isn't committed, until this worker's end; None: until all is done."""
    for offset, command in commands.items():
        if offset not in committed:
            world.take(command, offset=offset)
    bystanders = asyncio.all_tasks()
    if life is None:
        world.ledger.is_away = False
        await world.done()
    else:
        loop = asyncio.get_running_loop()
        begins = loop.call_later(life.away_from, setattr, world.ledger, "is_away", True)
        ends = loop.call_later(
            life.away_from + life.away_seconds, setattr, world.ledger, "is_away", False
        )
        await asyncio.sleep(life.seconds)
        begins.cancel()
        ends.cancel()
        if life.is_killed:
            killed = [task for task in bystanders if task is not asyncio.current_task()]
            for task in killed:
                task.cancel()
            await asyncio.gather(*killed, return_exceptions=True)
        else:
            await world.agent.on_revoked([0])
    finished = list(world.finished)
    if life is not None and life.is_killed:
        finished = finished[: round(len(finished) * life.committed)]
    by_id = defaultdict(list)
    for delivery in world.deliveries():
        by_id[delivery.notification_id].append(delivery)
    for _, offset in finished:
        assert offset not in committed
        committed[offset] = by_id[commands[offset].notification_id]


@settings(max_examples=300, deadline=None)
@given(histories, lives, st.lists(st.floats(-30, 30), max_size=12))
def test_every_command_ends_in_one_delivery_and_every_customer_sees_it_once_and_in_order(
    history: list[tuple[str, list[str]]], worker_lives: list[Life], waits: list[float]
) -> None:
    commands = {
        offset: notification(f"n{offset}", account) for offset, (account, _) in enumerate(history)
    }
    provider = Provider(
        {f"n{offset}": list(answers) for offset, (_, answers) in enumerate(history)}, list(waits)
    )
    committed: dict[int, list[Delivery]] = {}

    async def main() -> None:
        ledger = MemoryLedger()
        for life in [*worker_lives, None]:
            channel = FakeChannel(provider.answer, get_ready=provider.ready)
            world = World(channel, ledger, most_at_once=3)
            await live(life, world, commands, committed)
            await asyncio.sleep(life.gap if life else 0)

    run_virtually(main())
    assert sorted(committed) == sorted(commands)
    assert len(provider.shown) == len(set(provider.shown))
    for offset, command in commands.items():
        (delivery,) = committed[offset]
        assert delivery.notification_id == command.notification_id
        if delivery.status == "sent":
            assert command.notification_id in provider.shown
        else:
            assert delivery.error in {"uncertain", "refused"}
            # What nobody was asked for is in doubt for nobody, whatever cut it off.
            assert command.notification_id in provider.asked
    for account in "abc":
        own = [f"n{offset}" for offset, (owner, _) in enumerate(history) if owner == account]
        shown = [message for message in provider.shown if message in own]
        assert shown == [message for message in own if message in shown]


@settings(max_examples=100, deadline=None)
@given(histories, st.integers(1, 30))
def test_no_customer_waits_for_another(history: list[tuple[str, list[str]]], calm: int) -> None:
    answers = {
        f"n{offset}": [answer for answer in drawn if answer != "held"]
        for offset, (_, drawn) in enumerate(history)
    }

    async def main() -> None:
        world = World(FakeChannel(Provider(answers).answer), most_at_once=8)
        world.take(*[notification(f"n{i}", account) for i, (account, _) in enumerate(history)])
        world.take(*[notification(f"calm{i}", f"calm{i}") for i in range(calm)], offset=1000)
        await asyncio.sleep(5)
        assert sum(offset >= 1000 for _, offset in world.finished) == calm
        await world.done()

    run_virtually(main())


def test_the_entry_of_the_ledger_keeps_its_bytes() -> None:
    """It outlives a deployment: a new field has a default, and no field changes its name."""
    old = b'{"coordinates":"g-wechat-outbox-0-7","attempts":2,"strikes":1,"doubt_since":5}'
    entry = msgspec.json.decode(old, type=Entry)
    assert msgspec.json.encode(entry) == old

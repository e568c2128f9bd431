"""What the agents of one WeChat channel share: the pace, and what was learnt of a template."""

import asyncio
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest

from agents.channel import Message
from agents.outcomes import Held, Outcome, Refused, Sent, TryLater
from app.channels.wechat.channel import WechatChannel
from app.channels.wechat.client import WechatClient
from app.channels.wechat.message import Template
from app.channels.wechat.outcomes import parse_rules
from app.channels.wechat.pace import Pace
from app.channels.wechat.receipts import Receipts
from app.channels.wechat.subscriptions import Subscriptions
from tests.send.fakes import MemoryLedger, World, attempt, notification
from tests.virtual_time import run_virtually

TEMPLATE = Template(template_id="T", fields=("",) * 6, zone=ZoneInfo("Asia/Shanghai"))


class _Tokens:
    current = "token"

    async def get(self) -> str:
        return self.current


def channel(
    codes: list[int], *, rate: float = 1000.0, rules: str = "", template: Template = TEMPLATE
) -> WechatChannel:
    """Return a channel that is answered with these codes, and the last for good."""
    left = list(codes)

    def answer(request: httpx.Request) -> httpx.Response:
        code = left.pop(0) if len(left) > 1 else left[0]
        return httpx.Response(200, json={"errcode": code, "errmsg": "said", "msgid": 7})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = WechatClient(http, "https://wechat.test", "wx-1", "SECRET")
    return WechatChannel(
        client,
        _Tokens(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        template=template,
        rate=rate,
        rules=parse_rules(rules),
    )


def message(template_id: str = "T") -> Message:
    return Message("n1", "o-1", template_id, msgspec.json.encode({"touser": "o-1"}))


def send_at(sending: WechatChannel, *moments: float, template_id: str = "T") -> list[Outcome]:
    """Send one message at each moment."""

    async def main() -> list[Outcome]:
        met = []
        for moment in moments:
            await asyncio.sleep(moment - asyncio.get_running_loop().time())
            met.append(await attempt(sending, message(template_id)))
        return met

    return run_virtually(main())


LATER, PARKED = TryLater("said", 20.0, 40037), Held("said", 60.0, 40037, "T")


def test_an_unknown_template_is_held_after_three_slow_tries_of_whichever_messages() -> None:
    # Those of one moment count as one: 0 and 1 s, 21 s, 42 s, then 63 s.
    met = send_at(channel([40037]), 0, 1, 21, 42, 63, 130)
    assert met == [LATER, LATER, LATER, LATER, PARKED, PARKED]


def test_a_template_that_is_taken_in_between_begins_anew() -> None:
    met = send_at(channel([40037, 40037, 40037, 0, 40037]), 0, 21, 42, 63, 84)
    assert met == [LATER, LATER, LATER, Sent("7"), LATER]


def test_another_systems_unknown_template_is_given_up_and_holds_nobody() -> None:
    (met,) = send_at(channel([40037]), 0, template_id="T2")
    assert met == TryLater("said", 20.0, 40037, 4)


def test_the_operators_rows_are_the_ones_that_count() -> None:
    (met,) = send_at(channel([40037], rules="40037=hold:5"), 0)
    assert met == Held("said", 5.0, 40037)


def test_the_agents_of_a_worker_keep_one_pace_together() -> None:
    sending = channel([0], rate=50.0)

    async def main() -> float:
        agents = [attempt(sending, message()) for _ in range(100)]
        await asyncio.gather(*agents)
        return asyncio.get_running_loop().time()

    # 100 sends in 99 pauses of 1/50 s, whoever makes them.
    assert run_virtually(main()) == pytest.approx(99 / 50, rel=0.01)


def test_an_overload_halves_the_pace_and_it_recovers() -> None:
    async def main() -> list[float]:
        pace, loop = Pace(10.0), asyncio.get_running_loop()
        pace.on_overload()
        pace.on_overload()  # of the same moment
        moments = []
        for _ in range(2):
            await pace.wait()
            moments.append(loop.time())
        await asyncio.sleep(120)
        for _ in range(2):
            await pace.wait()
            moments.append(loop.time())
        return [moments[1] - moments[0], moments[3] - moments[2]]

    assert run_virtually(main()) == [pytest.approx(0.2, rel=0.01), pytest.approx(0.1, rel=0.01)]


def test_restricted_recipients_hold_the_account_only_when_nobody_is_taken_between() -> None:
    def restricted(*recipients: str) -> list[Message]:
        return [Message("n1", recipient, "T", b"{}") for recipient in recipients]

    async def main() -> list[Outcome]:
        # Six in the worker's life, days apart; then six with others taken between; then six in
        # a row, and the hold's first probe ten minutes later.
        sending = channel([50002] * 6 + [50002, 0] * 6 + [50002])
        met = []
        for one in restricted(*"abcdef"):
            met.append(await attempt(sending, one))
            await asyncio.sleep(86_400)
        for one in restricted(*"aabbccddeeff"):
            met.append(await attempt(sending, one))
        for one in restricted(*"abcdef"):
            met.append(await attempt(sending, one))
        await asyncio.sleep(601)
        met.append(await attempt(sending, restricted("g")[0]))
        return met

    refused, held = Refused("said", 50002), Held("said", 600, 50002)
    assert run_virtually(main()) == (
        [refused] * 6 + [refused, Sent("7")] * 6 + [refused] * 5 + [held] * 2
    )


def test_a_mini_program_of_another_system_is_refused_and_holds_nobody() -> None:
    theirs = b'{"miniprogram":{"appid":"wx-theirs","pagepath":"p"}}'
    ours = b'{"miniprogram":{"appid":"wx-ours"}}'

    async def main() -> list[Outcome]:
        template = msgspec.structs.replace(TEMPLATE, miniprogram_app_id="wx-ours")
        sending = channel([40013], template=template)
        return [
            await attempt(sending, Message("n1", "o", "T", body)) for body in (theirs, ours, b"{}")
        ]

    held = Held("said", 60.0, 40013)
    assert run_virtually(main()) == [
        Refused("said: the message's mini-program", 40013),
        held,
        held,
    ]


def test_what_is_ready_goes_out_at_once() -> None:
    """Between the ledger's word and the request nothing may be waited for."""
    sending = channel([0], rate=1.0)

    async def main() -> list[float]:
        loop, moments = asyncio.get_running_loop(), []
        for _ in range(3):
            assert await sending.ready(message()) is None
            moments.append(loop.time())
            await sending.send(message(), is_repeat=False)
            moments.append(loop.time())
        return moments

    assert run_virtually(main()) == [0, 0, 1, 1, 2, 2]


def test_messages_that_are_gone_keep_nobody_waiting() -> None:
    pace = Pace(10.0)

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        await pace.wait()
        gone = [asyncio.create_task(pace.wait()) for _ in range(64)]
        staying = [asyncio.create_task(pace.wait()) for _ in range(3)]
        await asyncio.sleep(0.15)
        assert [one.done() for one in gone].count(True) == 1
        for one in gone:
            one.cancel()
        moments = []
        for one in staying:
            await one
            moments.append(loop.time())
        return moments

    assert run_virtually(main()) == pytest.approx([0.2, 0.3, 0.4])


def test_what_a_busy_event_loop_gave_too_late_is_no_burst() -> None:
    async def main() -> int:
        pace, loop = Pace(100.0), asyncio.get_running_loop()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(1000)]
        await asyncio.sleep(0)
        loop._jumping.clock += 5.0  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        return sum(one.done() for one in waiting)

    # A tenth of a second is made up for.
    assert run_virtually(main()) == pytest.approx(1 + 10 + 50, abs=2)


class _Renewing:
    """A token that is refused, and the next, which takes a moment."""

    current: str | None = "old"

    def refuse(self, token: str) -> None:
        if token == self.current:
            self.current = None

    async def get(self) -> str:
        if self.current is None:
            await asyncio.sleep(0.05)
            self.current = "new"
        return self.current


def test_what_a_stale_token_was_refused_for_takes_another_place_in_the_pace() -> None:
    moments: list[float] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        moments.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        code = 42001 if request.url.params["access_token"] == "old" else 0
        return httpx.Response(200, json={"errcode": code, "errmsg": "said", "msgid": 7})

    async def main() -> list[Outcome]:
        sending = channel([0], rate=50.0)
        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        sending._client = WechatClient(http, "https://wechat.test", "wx-1", "SECRET")
        sending._tokens = _Renewing()  # type: ignore[assignment]
        return await asyncio.gather(*[attempt(sending, message()) for _ in range(150)])

    assert set(run_virtually(main())) == {Sent("7")}
    assert len(moments) > 150
    assert max(sum(one <= at < one + 0.999 for at in moments) for one in moments) <= 50


def test_a_token_that_is_refused_while_others_wait_for_their_place_is_renewed_before_they_go() -> (
    None
):
    async def main() -> list[float]:
        sending, moments = channel([0], rate=1.0), []
        tokens = sending._tokens = _Renewing()  # type: ignore[assignment]

        async def wait() -> None:
            await sending.ready(message())
            assert tokens.current == "new"
            moments.append(asyncio.get_running_loop().time())

        await sending.ready(message())
        waiting = [asyncio.create_task(wait()) for _ in range(2)]
        await asyncio.sleep(0.5)
        tokens.refuse("old")
        await asyncio.gather(*waiting)
        return moments

    assert run_virtually(main()) == [2.0, 3.0]


@pytest.mark.parametrize("grace_s", [0.0, 1.5])
def test_what_is_cut_off_waiting_for_its_place_is_sent_a_quarter_of_an_hour_later(
    grace_s: float,
) -> None:
    commands = [notification(f"n{number}", f"a{number}") for number in range(100)]

    def world(ledger: MemoryLedger) -> World:
        sending = channel([0], rate=10.0)
        sending._receipts = Receipts(None, "g")  # type: ignore[arg-type]
        sending._subscriptions = Subscriptions(None, "g")  # type: ignore[arg-type]
        return World(sending, ledger, most_at_once=64, grace_s=grace_s)  # type: ignore[arg-type]

    async def main() -> list[str]:
        ledger = MemoryLedger()
        first, second = world(ledger), world(ledger)
        first.take(*commands)
        await asyncio.sleep(3)
        await first.agent.on_revoked([0])
        await asyncio.sleep(900)
        for offset, command in enumerate(commands):
            if (0, offset) not in first.finished:
                second.take(command, offset=offset)
        await second.done()
        return [one.status for one in first.deliveries() + second.deliveries()]

    assert run_virtually(main()) == ["sent"] * 100

"""The client and the stand-in play the same cases; see `cases.py`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from agents.channel import Message
from agents.outcomes import Held, Outcome, Sent, TryLater, Unclear
from app.channels.wechat.channel import WechatChannel
from app.channels.wechat.client import WechatClient
from app.channels.wechat.message import Template
from app.channels.wechat.outcomes import error_text
from app.channels.wechat.receipts import Receipts
from app.channels.wechat.rests import Rests
from app.channels.wechat.subscriptions import Subscriptions
from app.channels.wechat.token import Tokens
from app.channels.wechat.token_store import TokenStore
from app.http import open_http
from app.sandbox.control import with_control_plane
from app.sandbox.faults import Faults
from app.sandbox.server import APP_ID, APP_SECRET, TEMPLATE_ID, Sandbox
from streams.times import SECOND
from tests.installation import PATIENCE_SECONDS
from tests.sandbox.cases import BROKEN, CASES, OPENID, Case
from tests.send.fakes import attempt

TEMPLATE = Template(template_id=TEMPLATE_ID, fields=("",) * 6, zone=ZoneInfo("Asia/Shanghai"))


def request(case: Case | None = None, number: int = 0) -> dict[str, Any]:
    """Return the request of a case."""
    usual = {
        "touser": OPENID,
        "template_id": TEMPLATE_ID,
        "client_msg_id": f"id{number}",
        "data": {"keyword2": {"value": "任务完成"}},
    }
    return usual | (case.message if case else {})


def message(body: dict[str, Any]) -> Message:
    return Message(
        body["client_msg_id"], str(body["touser"]), body["template_id"], msgspec.json.encode(body)
    )


# Noon in Shanghai: far from the midnight at which quotas begin anew, and at a minute's beginning.
NOON = datetime(2026, 11, 25, 12, tzinfo=TEMPLATE.zone).timestamp()


def from_noon() -> Callable[[], float]:
    """Return a clock that shows noon now, and goes on."""
    began = time.monotonic()
    return lambda: NOON + time.monotonic() - began


def channel(http: httpx.AsyncClient, base_url: str, redis: Redis) -> WechatChannel:
    """Return the client, as a worker has it. Its token's clock stands still: what is left of a hold
    is the whole."""
    clock = from_noon()
    client = WechatClient(http, base_url, APP_ID, APP_SECRET)
    return WechatChannel(
        client,
        Tokens(
            client,
            TokenStore(redis, APP_ID),
            now=lambda: int(NOON * SECOND),
            random=lambda: 0.0,
            asks_at_once=True,
        ),
        Receipts(redis, "g"),
        Subscriptions(redis, "g"),
        Rests(redis, "g"),
        template=TEMPLATE,
        rate=10_000,
        now=lambda: int(clock() * SECOND),
    )


def agrees(met: Outcome, expected: Outcome) -> bool:
    """Compare; an empty text or a star stands for any."""
    if type(met) is not type(expected):
        return False
    if isinstance(expected, Sent) and isinstance(met, Sent):
        return bool(met.provider_id)
    field = "reason" if isinstance(expected, Held) else "error"
    if getattr(expected, field, "") in {"", "*"}:
        met = msgspec.structs.replace(met, **{field: getattr(expected, field)})
    return met == expected


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with open_http() as client:
        yield client


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(clock=from_noon())


@pytest.fixture
async def base_url(sandbox: Sandbox) -> AsyncIterator[str]:
    async with TestServer(with_control_plane(sandbox)) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_client_makes_of_the_documented_answer_what_the_table_says(
    case: Case, redis: Redis
) -> None:
    def answer(asked: httpx.Request) -> httpx.Response:
        if asked.url.path.endswith("stable_token") and not case.token_only:
            return httpx.Response(200, json={"access_token": "T", "expires_in": 7200})
        return httpx.Response(200, json=case.documented)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        sending = channel(http, "https://wechat.test", redis)
        met = await attempt(sending, message(request(case)))
    assert agrees(met, case.outcome), met


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_client_makes_the_same_of_the_stand_ins(
    case: Case, redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    sending = channel(http, base_url, redis)
    case.arrange(sandbox)
    for number in range(case.sent_before):
        before = await attempt(sending, message(request(case, 100 + number)))
        assert isinstance(before, Sent)
    met = await attempt(sending, message(request(case)))
    assert agrees(met, case.outcome), met
    assert len(sandbox.wechat.messages) == case.sent_before + case.arrives


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_stand_in_answers_as_it_is_documented(
    case: Case, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    credentials = {"grant_type": "client_credential", "appid": APP_ID, "secret": APP_SECRET}
    if not case.token_only:
        said = (await http.post(f"{base_url}/cgi-bin/stable_token", json=credentials)).json()
        assert said.keys() == {"access_token", "expires_in"}
        assert 300 <= said["expires_in"] <= 7200
        params = {"access_token": said["access_token"]}
    case.arrange(sandbox)
    if case.token_only:
        answer = await http.post(f"{base_url}/cgi-bin/stable_token", json=credentials)
    else:
        url = f"{base_url}/cgi-bin/message/template/send"
        for number in range(case.sent_before):
            await http.post(url, params=params, json=request(case, 100 + number))
        answer = await http.post(url, params=params, json=request(case))
    assert (answer.status_code, answer.headers["Content-Type"][:16]) == (200, "application/json")
    said = answer.json()
    assert said.keys() == case.documented.keys()
    assert said["errcode"] == case.documented["errcode"]
    assert error_text(said["errmsg"]) == error_text(case.documented["errmsg"])
    if said["errcode"] == 0:
        assert said["msgid"] > 2**53


@pytest.mark.parametrize(
    ("faults", "outcome", "arrives"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
async def test_a_broken_answer_is_never_taken_for_one(
    faults: Faults,
    outcome: Outcome,
    arrives: bool,
    redis: Redis,
    sandbox: Sandbox,
    base_url: str,
) -> None:
    faults.hang_s = 3600
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        sending = channel(http, base_url, redis)
        assert await sending.ready(message(request())) is None  # it has its token
        sandbox.faults = faults
        if faults.hang_after_accept:
            http.timeout = httpx.Timeout(PATIENCE_SECONDS, read=1.0)
        met = await attempt(sending, message(request()))
        http.timeout = httpx.Timeout(PATIENCE_SECONDS)
        assert agrees(met, outcome), met
        assert len(sandbox.wechat.messages) == arrives
        # The same again, when all is well: nothing arrives twice.
        sandbox.faults = Faults()
        assert isinstance(await attempt(sending, message(request()), is_repeat=True), Sent)
    assert len(sandbox.wechat.messages) == 1


@pytest.mark.parametrize("reply", ["ok_same_msgid", "ok_new_msgid", "error_40241"])
async def test_however_a_repeat_is_answered_it_counts_as_sent(
    reply: Any, redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    sending = channel(http, base_url, redis)
    sandbox.faults = Faults(truncated=1.0)
    assert isinstance(await attempt(sending, message(request())), Unclear)
    sandbox.faults = Faults(duplicate_reply=reply)
    assert isinstance(await attempt(sending, message(request()), is_repeat=True), Sent)
    assert len(sandbox.wechat.messages) == 1
    assert sandbox.wechat.repeats == 1


@pytest.mark.parametrize("age_s", [7201, 100_000])
async def test_a_token_that_ended_is_renewed_once_and_the_message_sent_again_once(
    age_s: float, redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    sending = channel(http, base_url, redis)
    await attempt(sending, message(request()))
    sandbox.forward_s += age_s  # WeChat's clock; ours thinks that the token lives
    assert isinstance(await attempt(sending, message(request(None, 1))), Sent)
    assert (sandbox.sends, sandbox.tokens.requests) == (3, 2)


async def test_a_token_that_was_rotated_is_renewed_once_for_all_messages_under_way(
    redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    workers = [channel(http, base_url, redis) for _ in range(20)]
    first = [attempt(worker, message(request(None, n))) for n, worker in enumerate(workers)]
    assert all(isinstance(met, Sent) for met in await asyncio.gather(*first))
    # Twenty workers that start at once ask for one token.
    assert sandbox.tokens.requests == 1
    sandbox.tokens.rotate()
    again = [
        attempt(worker, message(request(None, 100 * n + m)))
        for n, worker in enumerate(workers, 1)
        for m in range(5)
    ]
    assert all(isinstance(met, Sent) for met in await asyncio.gather(*again))
    assert sandbox.tokens.requests == 2
    assert len(sandbox.wechat.messages) == 120


async def test_a_token_that_is_refused_again_ends_the_attempt_and_holds_the_channel(
    redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    sending = channel(http, base_url, redis)
    sandbox.faults = Faults(answer=40001)
    met = await attempt(sending, message(request()))
    assert isinstance(met, Held)
    assert met.error_code == 40001
    # One refresh, one resend, no more.
    assert sandbox.sends == 2
    assert sandbox.wechat.messages == []


async def test_the_administrator_is_asked_about_an_address(
    redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    sending = channel(http, base_url, redis)

    async def met() -> Outcome:
        return await attempt(sending, message(request()))

    sandbox.addresses.set("ask")
    for expected in (89503, 89501):
        assert getattr(await met(), "error_code", 0) == expected
    sandbox.addresses.answer(approves=False)
    assert agrees(await met(), Held("", 3600, 89507))
    sandbox.forward_s += 3601
    assert getattr(await met(), "error_code", 0) == 89503
    sandbox.addresses.answer(approves=False)
    assert agrees(await met(), Held("", 86_400, 89506))
    sandbox.addresses.answer(approves=True)
    assert isinstance(await met(), Sent)


async def test_quotas_are_told_cleared_and_begin_anew_at_midnight_in_shanghai(
    redis: Redis, http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    sending = channel(http, base_url, redis)
    sandbox.wechat.quotas.limits.daily = 1
    sandbox.wechat.quotas.limits.per_minute = 1
    token, _ = sandbox.tokens.stable(force_refresh=False)

    async def call(path: str) -> dict[str, Any]:
        url = f"{base_url}/cgi-bin/{path}"
        answer = await http.post(url, params={"access_token": token}, json={"cgi_path": "x"})
        return dict(answer.json())

    async def met(number: int) -> Outcome:
        return await attempt(sending, message(request(None, number)))

    assert isinstance(await met(0), Sent)
    assert getattr(await met(1), "error_code", 0) == 45009
    quota = (await call("openapi/quota/get"))["quota"]
    assert quota == {"daily_limit": 1, "used": 1, "remain": 0}
    for number in range(11):
        assert (await call("clear_quota"))["errcode"] == (0 if number < 10 else 48006)
    waits = await met(2)
    assert isinstance(waits, TryLater)
    assert (waits.error_code, 0 < (waits.after_s or 0) <= 60) == (45011, True)
    sandbox.forward_s += 86_400
    sandbox.tokens.rotate()
    assert isinstance(await met(3), Sent)


async def test_a_follower_who_scans_and_a_stranger_who_does(
    http: httpx.AsyncClient, sandbox: Sandbox, base_url: str
) -> None:
    token, _ = sandbox.tokens.stable(force_refresh=False)
    made = await http.post(
        f"{base_url}/cgi-bin/qrcode/create",
        params={"access_token": token},
        content=json.dumps({"action_info": {"scene": {"scene_str": "invite"}}}),
    )
    scanned = {"openid": "o-new", "ticket": made.json()["ticket"]}
    for expected, stranger in (("SCAN", False), ("subscribe", True), ("SCAN", False)):
        if stranger:
            sandbox.wechat.strangers.add("o-new")
        said = (await http.post(f"{base_url}/__sandbox/scan", json=scanned)).json()
        assert said == {"event": expected, "status": None}

"""What every channel over HTTP promises, on a provider that can be told what to do.

No secret leaves it, every answer means something, it can be cancelled, and it never waits for good.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from agents.channel import Message, SendingChannel
from agents.outcomes import Held, Outcome, Refused, Sent, TryLater, Unclear
from app import http as app_http
from app.channels.sms import SmsChannel
from app.channels.wechat.channel import WechatChannel
from app.channels.wechat.client import WechatClient
from app.channels.wechat.message import Template
from app.channels.wechat.outcomes import RULES
from app.channels.wechat.receipts import Receipts
from app.channels.wechat.rests import Rests
from app.channels.wechat.subscriptions import Subscriptions
from app.channels.wechat.token import Tokens
from app.channels.wechat.token_store import TokenStore
from app.http import open_http
from streams.records import Account
from tests.installation import PATIENCE_SECONDS
from tests.send.fakes import attempt, notification

SECRET, TOKEN = "the-secret-of-the-account", "the-token-in-force"
OPENID, PHONE = "o-customer-of-ours", "13700001234"

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Provider:
    """Gives out a token and answers everything else as it is told."""

    answer: Answering | None = None
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("stable_token"):
            return web.json_response({"access_token": TOKEN, "expires_in": 7200})
        self.requests.append(await request.read())
        assert self.answer is not None
        return await self.answer(request)

    def answers(self, status: int, text: str, **headers: str) -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status, text=text, headers=headers)

        self.answer = answer


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def url(provider: Provider) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.serve)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture(params=["wechat", "sms"])
async def channel(
    request: pytest.FixtureRequest, url: str, redis: Redis
) -> AsyncIterator[SendingChannel]:
    async with open_http() as http:
        if request.param == "sms":
            yield SmsChannel(http, url=f"{url}/sms", token=SECRET, signature="测试")
            return
        client = WechatClient(http, url, "wx-1", SECRET)
        yield WechatChannel(
            client,
            Tokens(client, TokenStore(redis, "wx-1")),
            Receipts(redis, "g"),
            Subscriptions(redis, "g"),
            Rests(redis, "g"),
            template=Template(
                template_id="T", fields=("first",) + ("",) * 5, zone=ZoneInfo("Asia/Shanghai")
            ),
            rate=100_000,
        )


def prepared(channel: SendingChannel) -> Message:
    account = Account("a", "甲", openid=OPENID, phone=PHONE)
    command = notification("n1", "a", channel=channel.name)
    message = channel.prepare(command, account)
    assert isinstance(message, Message)
    return message


ERRCODES = [
    json.dumps({"errcode": code, "errmsg": f"said {SECRET} {TOKEN} of {OPENID} rid: 1-2"})
    for code in [*RULES, 99999]
]
BODIES = ["", "<html>", "[]", "null", "{", '{"errcode":"0"}', f'"{SECRET}{TOKEN}"', "[" * 100_000]
STATUSES = [200, 201, 204, 301, 302, 400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504]


async def test_every_answer_means_something_and_no_secret_is_told(
    channel: SendingChannel, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # The test's own event loop and server, which see the requests, are not on trial.
    for name in ("asyncio", "aiohttp.access", "aiohttp.server"):
        caplog.set_level(logging.ERROR, logger=name)
    message = prepared(channel)
    cases = [(200, text) for text in ERRCODES]
    cases += itertools.product(STATUSES, BODIES)
    met: set[type[Outcome]] = set()
    for status, text in cases:
        provider.answers(status, text, Location=f"/{SECRET}", **{"Retry-After": "soon"})
        outcome = await attempt(channel, message)
        met.add(type(outcome))
        assert isinstance(outcome, get_args(Outcome)), (status, text)
        assert SECRET not in repr(outcome), (status, text)
        assert TOKEN not in repr(outcome), (status, text)
        assert OPENID not in repr(outcome), (status, text)
        if isinstance(outcome, Held | TryLater | Refused | Unclear):
            assert getattr(outcome, "error", "") or getattr(outcome, "reason", "")
    assert met >= {Sent, Refused, TryLater, Unclear}
    for secret in (SECRET, TOKEN, OPENID, PHONE):
        assert secret not in caplog.text


@pytest.mark.parametrize("channel", ["wechat"], indirect=True)
async def test_a_recipient_that_wechat_limits_is_left_for_explain(
    channel: SendingChannel, provider: Provider, redis: Redis
) -> None:
    message = prepared(channel)
    provider.answers(200, '{"errcode":45009,"errmsg":"reach max api daily quota limit"}')
    await attempt(channel, message)
    assert await Rests(redis, "g").find(OPENID) is None  # everybody's
    provider.answers(200, f'{{"errcode":43117,"errmsg":"too often {OPENID}"}}')
    await attempt(channel, message)
    rest = await Rests(redis, "g").find(OPENID)
    assert rest is not None
    assert rest.error_code == 43117
    assert OPENID not in rest.error


async def test_the_text_travels_as_it_is(channel: SendingChannel, provider: Provider) -> None:
    provider.answers(200, '{"errcode":0,"msgid":1}')
    await attempt(channel, prepared(channel))
    (body,) = provider.requests
    assert b"\\u" not in body
    assert ("你好" if channel.name == "wechat" else "您的外呼任务").encode() in body


async def test_a_provider_that_says_nothing_leaves_the_attempt_unclear(
    channel: SendingChannel, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = prepared(channel)
    assert await channel.ready(message) is None  # it has its token
    monkeypatch.setattr(app_http, "WHOLE_SECONDS", 0.2)

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    for answer in (drip, hang):
        provider.answer = answer
        outcome = await asyncio.wait_for(attempt(channel, message), PATIENCE_SECONDS)
        assert isinstance(outcome, Unclear)


async def test_a_provider_that_breaks_off_leaves_the_attempt_unclear(
    channel: SendingChannel, provider: Provider
) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    provider.answer = break_off
    assert isinstance(await attempt(channel, prepared(channel)), Unclear)


async def test_a_cancelled_attempt_ends_at_once_and_costs_no_connection(
    channel: SendingChannel, provider: Provider
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    message = prepared(channel)
    provider.answer = hang
    for _ in range(3):
        attempts = [
            asyncio.create_task(attempt(channel, message)) for _ in range(app_http.MOST_CONNECTIONS)
        ]
        await asyncio.sleep(0.2)
        for one in attempts:
            one.cancel()
        # Before the silence itself ends them.
        ended = await asyncio.wait_for(
            asyncio.gather(*attempts, return_exceptions=True), app_http.READ_SECONDS - 1
        )
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    provider.answers(200, '{"errcode":0,"msgid":1}')
    outcome = await asyncio.wait_for(attempt(channel, message, is_repeat=True), PATIENCE_SECONDS)
    assert isinstance(outcome, Sent)


async def test_nobody_there_means_that_nobody_took_it(redis: Redis) -> None:
    async with open_http() as http:
        sms = SmsChannel(http, url="http://127.0.0.1:1/sms", token=SECRET, signature="测试")
        outcome = await attempt(sms, prepared(sms))
        assert outcome == TryLater("ConnectError")
        client = WechatClient(http, "http://127.0.0.1:1", "wx-1", SECRET)
        token = await Tokens(client, TokenStore(redis, "wx-1"), random=lambda: 0.0).get()
        assert isinstance(token, Held)
        assert token.reason == "token: ConnectError"


@pytest.mark.parametrize("status", [301, 302, 401, 403, 404, 405, 407])
async def test_a_gateway_at_a_wrong_address_loses_nothing(
    redis: Redis, provider: Provider, url: str, status: int
) -> None:
    async with open_http() as http:
        sms = SmsChannel(http, url=f"{url}/sms", token=SECRET, signature="测试")
        provider.answers(status, "")
        outcome = await attempt(sms, prepared(sms))
        assert isinstance(outcome, Held)
        assert outcome.error_code == status
        provider.answers(422, "")
        assert await attempt(sms, prepared(sms)) == Refused("HTTP 422", 422)

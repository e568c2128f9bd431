"""What a message costs Redis, by the server's own count, on a real one."""

import asyncio
import itertools
from zoneinfo import ZoneInfo

import httpx
import pytest
from redis.asyncio import Redis

from agents.send import SendAgent
from app.channels.wechat.channel import build_wechat
from app.ledger import RedisLedger
from app.settings import load_settings
from streams.engine.outbox import OutboxRecord
from streams.engine.types import Output
from streams.records import Account, encode
from tests.send.fakes import notification

MESSAGES = 40


async def reads(redis: Redis) -> int:
    """Return how often the server has read from a socket."""
    return int((await redis.info("stats"))["total_reads_processed"])


@pytest.mark.parametrize(("at_once", "most"), [(1, 2.5), (MESSAGES, 0.5)])
async def test_a_message_costs_redis_two_round_trips_and_many_share_one(
    at_once: int, most: float, redis: Redis
) -> None:
    msgids = itertools.count(2**53)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("stable_token"):
            return httpx.Response(200, json={"access_token": "T", "expires_in": 7200})
        return httpx.Response(200, json={"errcode": 0, "errmsg": "ok", "msgid": next(msgids)})

    settings = load_settings(
        wechat_app_id="wx1",
        wechat_app_secret="the-secret",
        wechat_template_id="T",
        wechat_rate=100_000,
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        agent = SendAgent(
            build_wechat(settings, redis, http),
            topic="outbox",
            deliveries="deliveries",
            dead_letters="dead-letters",
            ledger=RedisLedger(redis, "g"),
            lookup=lambda account_id: Account(account_id, "甲", openid=f"o-{account_id}"),
            zone=ZoneInfo("Asia/Shanghai"),
        )
        ended: asyncio.Queue[list[Output]] = asyncio.Queue()
        crashes: list[Exception] = []
        agent.bind(lambda partition, offset, outputs: ended.put_nowait(outputs), crashes.append)
        agent.on_assigned(0)

        async def send(first: int, number: int) -> None:
            agent.take(
                0,
                [
                    OutboxRecord(
                        one, f"a{one}".encode(), encode(notification(f"n{one}", f"a{one}"))
                    )
                    for one in range(first, first + number)
                ],
            )
            for _ in range(number):
                (output,) = await ended.get()
                assert b'"sent"' in (output.value or b"")

        await send(1000, 1)  # which brings the token
        before = await reads(redis)
        for first in range(0, MESSAGES, at_once):
            await send(first, at_once)
        assert await reads(redis) - before - 1 <= most * MESSAGES
    assert len(await redis.keys("g:ledger:*")) == MESSAGES + 1
    assert len(await redis.keys("dialwatch:wechat:receipt:*")) == MESSAGES + 1

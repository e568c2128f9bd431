"""What workers left in Redis is told; while it is away nothing of it is, and soon."""

import asyncio
import time

from redis.asyncio import Redis

from agents.holds import HoldView
from app.channels.wechat.rests import Rests
from app.channels.wechat.subscriptions import Subscriptions
from app.operations.providers import holds_in_force, is_subscribed, rest_of
from app.settings import Settings, load_settings
from app.shared_holds import share_holds
from streams.times import parse_instant
from tables.explanations import HoldSaid

UNTIL = "2026-02-14T10:00:00+08:00"
HOLD = HoldView("wechat", "45009", None, UNTIL, "reach max api daily quota limit", UNTIL)


def settings_for(redis_url: str) -> Settings:
    return load_settings(redis_url=redis_url, group="g")


async def test_a_hold_of_any_worker_is_told(redis: Redis, redis_url: str) -> None:
    settings = settings_for(redis_url)
    assert await holds_in_force(settings) == []

    sharing = asyncio.create_task(share_holds(redis, "g", "worker-1", lambda: [HOLD], look_s=0.05))
    try:
        while not (found := await holds_in_force(settings)):  # noqa: ASYNC110 (Redis tells nobody)
            await asyncio.sleep(0.05)
    finally:
        sharing.cancel()
        await asyncio.wait([sharing])
    assert found == [HoldSaid("wechat", "45009", "reach max api daily quota limit", UNTIL)]


async def test_who_unsubscribed_is_told(redis: Redis, redis_url: str) -> None:
    settings = settings_for(redis_url)
    assert await is_subscribed(settings, "o1") == {"subscribed": True}
    await Subscriptions(redis, "g").on_unsubscribe("o1", 1)
    assert await is_subscribed(settings, "o1") == {"subscribed": False}
    assert await is_subscribed(settings, None) == {"subscribed": None}


async def test_a_recipient_that_rests_is_told_and_ends(redis: Redis, redis_url: str) -> None:
    settings = settings_for(redis_url)
    assert await rest_of(settings, "o1") is None
    now = parse_instant("2026-02-14T10:00:00+08:00")
    await Rests(redis, "g").begin("o1", 43117, "too often", 3600, now)
    until = "2026-02-14T11:15:00+08:00"
    assert await rest_of(settings, "o1") == HoldSaid("wechat", "43117", "too often", until)
    assert 4400 < await redis.ttl("g:wechat:resting:o1") <= 4500
    assert await rest_of(settings, "o2") is None
    assert await rest_of(settings, None) is None


async def test_a_redis_that_is_away_is_none_and_soon() -> None:
    settings = settings_for("redis://127.0.0.1:1/0")
    began = time.monotonic()
    assert await is_subscribed(settings, "o1") is None
    assert await holds_in_force(settings) is None
    assert await rest_of(settings, "o1") is None
    assert time.monotonic() - began < 20

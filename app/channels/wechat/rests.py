"""Which recipients WeChat takes nothing more for, for a while, as `dialwatch explain` tells it.

Only told from here: what waits for whom is decided in `agents/limits.py`, in the worker's memory.
"""

from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from app.redis_store import store_errors
from streams.times import SECOND

# A pause is lengthened by up to a quarter, so that not all end at once.
_LONGEST_PAUSE = 1.25


class Rest(NamedTuple):
    """What WeChat said of a recipient."""

    error_code: int | None
    error: str
    until: int
    """The instant by which a message for this recipient is tried again."""


_decode = msgspec.json.Decoder(Rest).decode


class Rests:
    """The resting recipients of one installation in Redis. Methods may raise StoreAwayError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._redis = redis
        self._prefix = prefix

    async def begin(
        self, openid: str, error_code: int | None, error: str, for_s: float, now: int
    ) -> None:
        """Note what WeChat said just now, for as long as it counts."""
        longest = max(1, int(for_s * _LONGEST_PAUSE))
        rest = Rest(error_code, error, now + longest * SECOND)
        with store_errors():
            await self._redis.set(self._key(openid), msgspec.json.encode(rest), ex=longest)

    async def find(self, openid: str) -> Rest | None:
        """Return what WeChat said of a recipient, while it counts."""
        with store_errors():
            value = await self._redis.get(self._key(openid))
        return None if value is None else _decode(value)

    def _key(self, openid: str) -> str:
        return f"{self._prefix}:wechat:resting:{openid}"

"""The WeChat token in Redis, shared by all workers, and the lock for renewing it.

The keys have the appid, not the group: the token belongs to the official account.
"""

import time
from collections.abc import Awaitable
from typing import cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from app.redis_store import store_errors

# Longer than a token request may take, so that a live owner doesn't lose the lock.
LOCK_SECONDS = 30
# How long failures are remembered: longer than any pause between two of them.
TROUBLE_SECONDS = 300
# Tencent's limits of force_refresh.
FORCED_A_DAY = 20
FORCED_SECONDS_APART = 30

# A late answer must not overwrite a newer token: it is written only over the token that was read.
_WRITE = """
local standing = redis.call('GET', KEYS[1])
local generation = 0
if standing then generation = cjson.decode(standing)['generation'] end
if generation ~= tonumber(ARGV[2]) - 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return 1
"""
_UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_MAY_FORCE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], 172800)
redis.call('SET', KEYS[2], '1', 'EX', ARGV[2])
return 1
"""


class TokenRecord(Struct, frozen=True):
    """A token; `issued_at` and `expires_at` are instants."""

    token: str
    issued_at: int
    expires_at: int
    generation: int


class Trouble(Struct, frozen=True):
    """Why the last request for a token failed."""

    reason: str
    error_code: int | None
    failures: int
    """How many requests have failed in a row."""
    until: int
    """The instant before which no worker asks again."""
    held_until: int
    """The instant before which a worker without a token doesn't try to send."""


class TokenStore:
    """The shared record of one official account. Every method may raise StoreAwayError."""

    def __init__(self, redis: Redis, app_id: str) -> None:
        self._redis = redis
        self._key = f"dialwatch:wechat:{app_id}:token"

    async def read(self) -> TokenRecord | None:
        """Return the shared token; None: there is none."""
        with store_errors():
            value = await self._redis.get(self._key)
        return msgspec.json.decode(value, type=TokenRecord) if value else None

    async def write(self, record: TokenRecord, lifetime_s: int) -> bool:
        """Share a token. Return False where another was shared since its predecessor was read."""
        arguments = (msgspec.json.encode(record), str(record.generation), str(lifetime_s))
        return await self._ask(_WRITE, [self._key], *arguments)

    async def read_trouble(self) -> Trouble | None:
        """Return why the last request failed; None: it succeeded, or it is long ago."""
        with store_errors():
            value = await self._redis.get(f"{self._key}:trouble")
        return msgspec.json.decode(value, type=Trouble) if value else None

    async def write_trouble(self, trouble: Trouble | None) -> None:
        """Share why the last request failed; None: it succeeded."""
        key = f"{self._key}:trouble"
        with store_errors():
            if trouble is None:
                await self._redis.delete(key)
            else:
                await self._redis.set(key, msgspec.json.encode(trouble), ex=TROUBLE_SECONDS)

    async def lock(self, owner: str) -> bool:
        """Take the lock. Return False where another owner has it."""
        with store_errors():
            taken = await self._redis.set(f"{self._key}:lock", owner, nx=True, ex=LOCK_SECONDS)
        return bool(taken)

    async def unlock(self, owner: str) -> None:
        """Release the lock, if this owner still has it."""
        await self._ask(_UNLOCK, [f"{self._key}:lock"], owner)

    async def may_force(self) -> bool:
        """Count one forced renewal of all workers. Return False where Tencent would refuse it."""
        day = time.strftime("%Y%m%d", time.gmtime(time.time() + 8 * 3600))
        keys = [f"{self._key}:forced:{day}", f"{self._key}:forced-just-now"]
        return await self._ask(_MAY_FORCE, keys, str(FORCED_A_DAY), str(FORCED_SECONDS_APART))

    async def _ask(self, script: str, keys: list[str], *arguments: bytes | str) -> bool:
        with store_errors():
            answer = await cast(
                "Awaitable[int]", self._redis.eval(script, len(keys), *keys, *arguments)
            )
        return answer == 1

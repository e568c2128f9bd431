"""The sender's ledger in Redis: what was begun and how it ended, by notification id."""

from collections.abc import Awaitable
from typing import cast

import msgspec
from redis.asyncio import Redis

from agents.channel import Entry
from app.store import store_errors

# Longer than any outage that people would leave standing, and than the topics' usual retention.
KEPT_SECONDS = 8 * 86400

# Another record's entry stands, and so does a finished one: a worker that was frozen and woke up
# must not begin again what its successor has ended.
_WRITE = """
local standing = redis.call('GET', KEYS[1])
if standing then
  local entry = cjson.decode(standing)
  local own = entry['coordinates'] == ARGV[2] and not entry['deliveries']
  if not own and entry['coordinates'] ~= ARGV[4] then return standing end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return false
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class RedisLedger:
    """The `agents.channel.Ledger` of one installation."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._redis = redis
        self._prefix = prefix

    async def read(self, notification_id: str) -> Entry | None:
        """Return what is known of a notification; None: nothing."""
        with store_errors():
            value = await self._redis.get(self._key(notification_id))
        return _decode(value) if value else None

    async def write(self, notification_id: str, entry: Entry) -> Entry | None:
        """Remember an unfinished notification.

        Writes nothing where another record's entry or a finished one stands, and returns that;
        the entry that this one `replaces` is no hindrance.
        """
        with store_errors():
            standing = await cast(
                "Awaitable[bytes | None]",
                self._redis.eval(
                    _WRITE,
                    1,
                    self._key(notification_id),
                    _encode(entry),
                    entry.coordinates,
                    str(KEPT_SECONDS),
                    entry.replaces or "",
                ),
            )
        return _decode(standing) if standing else None

    async def finish(self, notification_id: str, entry: Entry) -> None:
        """Remember how a notification ended."""
        with store_errors():
            await self._redis.set(self._key(notification_id), _encode(entry), ex=KEPT_SECONDS)

    def _key(self, notification_id: str) -> str:
        return f"{self._prefix}:ledger:{notification_id}"

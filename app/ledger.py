"""The sender's ledger in Redis: for each notification id, what was begun and how it ended."""

import msgspec
from redis.asyncio import Redis

from agents.channel import Bar, Claim, Entry, LaterWord
from app.redis_store import Together, store_errors

# Longer than any outage that people would tolerate, and than the topics' usual retention.
KEPT_SECONDS = 8 * 86400
_KEPT = str(KEPT_SECONDS)

# Never overwrites the entry of another record, or a finished one: a worker that was frozen and
# wakes up must not begin again what its successor has ended. ARGV: entry, coordinates, time, the
# entry to replace, and for a first one its owner. KEYS: the entry, and a bar if there is one.
_WRITE = """
local standing = redis.call('GET', KEYS[1])
if standing then
  local entry = cjson.decode(standing)
  local own = entry['coordinates'] == ARGV[2] and not entry['deliveries']
  if ARGV[5] ~= '' and entry['life'] ~= ARGV[5] then own = false end
  if not own and entry['coordinates'] ~= ARGV[4] then return standing end
end
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then return 1 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return false
"""
# Looks for a word that came before and stores the claim in one step, as in `receipts.py`, so that
# exactly one of sender and callback sees the other's record.
_FINISH = """
redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
local word = redis.call('GET', KEYS[3])
if word then return word end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return false
"""

_decode_word = msgspec.msgpack.Decoder(LaterWord).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class RedisLedger:
    """The `agents.channel.Ledger` of one installation."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._ask = Together(redis).ask
        self._prefix = prefix

    async def read(self, notification_id: str) -> Entry | None:
        """Return a notification's entry; None: there is none."""
        with store_errors():
            value = await self._ask("GET", self._key(notification_id))
        return _decode(value) if value else None

    async def write(
        self, notification_id: str, entry: Entry, *, is_first: bool = False, bar: Bar | None = None
    ) -> Entry | Bar | None:
        """Store an unfinished notification's entry; see `agents.channel.Ledger`."""
        keys = [self._key(notification_id), *([] if bar is None else [bar.key])]
        with store_errors():
            standing = await self._ask(
                "EVAL",
                _WRITE,
                str(len(keys)),
                *keys,
                _encode(entry),
                entry.coordinates,
                _KEPT,
                entry.replaces or "",
                entry.life if is_first else "",
            )
        if standing == 1:
            return bar
        return _decode(standing) if standing else None

    async def finish(
        self, notification_id: str, entry: Entry, claim: Claim | None = None
    ) -> LaterWord | None:
        """Store how a notification ended; see `agents.channel.Ledger`."""
        key, value = self._key(notification_id), _encode(entry)
        with store_errors():
            if claim is None:
                await self._ask("SET", key, value, "EX", _KEPT)
                return None
            keys = (key, claim.key, claim.word_key)
            arguments = (value, _KEPT, claim.value, str(claim.kept_s))
            word = await self._ask("EVAL", _FINISH, "3", *keys, *arguments)
        return _decode_word(word) if word else None

    def _key(self, notification_id: str) -> str:
        return f"{self._prefix}:ledger:{notification_id}"

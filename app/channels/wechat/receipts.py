"""Receipts: which notification a WeChat `msgid` belongs to, for WeChat's later word about it.

The later word (the event TEMPLATESENDJOBFINISH) may come before the answer with the `msgid`; then
it is kept until the sender finishes the message. The one of the two that comes second publishes the
word: see `match`, and `app/ledger.py` for the `claim`.
"""

from collections.abc import Awaitable
from typing import cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from agents.channel import Claim, LaterWord
from app.redis_store import store_errors

# WeChat's word comes within seconds; after a review within hours.
_RECEIPT_SECONDS = 3 * 86400
# The longest time from WeChat's word until the sender, which may wait for Redis, stores its answer.
_EARLY_SECONDS = 86400

# Reads and writes in one step, so that exactly one of sender and callback sees the other's record.
_MATCH = """
if redis.call('EXISTS', KEYS[2]) == 1 then return false end
local receipt = redis.call('GET', KEYS[1])
if not receipt then redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2]) end
return receipt
"""


_encode = msgspec.msgpack.Encoder().encode


class Receipt(Struct, frozen=True, array_like=True):
    """The fields of a notification that the later `deliveries` record needs."""

    notification_id: str
    account_id: str | None
    scenario: str
    attempts: int
    key: bytes | None
    """The key of the command, and of its deliveries."""


class Receipts:
    """Receipts of one installation in Redis. Every method may raise StoreAwayError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._redis = redis
        self._prefix = prefix

    def claim(self, msgid: str, receipt: Receipt) -> Claim:
        """Return the claim that stores the receipt of `msgid` and finds a word that came before.

        The caller that carries it out publishes that word.
        """
        key, word_key = self._keys(msgid)
        return Claim(key, _encode(receipt), _RECEIPT_SECONDS, word_key)

    async def match(self, msgid: str, word: LaterWord) -> Receipt | None:
        """Return the receipt of the message that WeChat's word is about; the caller publishes the
        word.

        None: there is no receipt yet. The word is kept, and the sender publishes it if the message
        turns out to be ours. A repeat of a kept word returns None too.
        """
        arguments = (_encode(word), str(_EARLY_SECONDS))
        with store_errors():
            receipt = await cast(
                "Awaitable[bytes | None]",
                self._redis.eval(_MATCH, 2, *self._keys(msgid), *arguments),
            )
        return msgspec.msgpack.decode(receipt, type=Receipt) if receipt else None

    def _keys(self, msgid: str) -> tuple[str, str]:
        return f"{self._prefix}:wechat:receipt:{msgid}", f"{self._prefix}:wechat:early:{msgid}"

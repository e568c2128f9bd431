"""Whose message a WeChat `msgid` is, so that WeChat's later word finds its notification.

The word (TEMPLATESENDJOBFINISH) may come before the answer that brings the `msgid`: it is kept
until the sender ends the message. Whichever of the two comes second publishes the word; see
`match`, and `app/ledger.py` for what becomes of a `claim`.
"""

from collections.abc import Awaitable
from typing import cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from agents.channel import Claim, LaterWord
from app.redis_store import store_errors

# WeChat speaks within seconds, after review within hours.
_RECEIPT_SECONDS = 3 * 86400
# From WeChat's word to the moment the sender has stored its answer, which waits for Redis.
_EARLY_SECONDS = 86400

# Looks and writes in one step: of the two that meet, exactly one sees the other.
_MATCH = """
if redis.call('EXISTS', KEYS[2]) == 1 then return false end
local receipt = redis.call('GET', KEYS[1])
if not receipt then redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2]) end
return receipt
"""


_encode = msgspec.msgpack.Encoder().encode


class Receipt(Struct, frozen=True, array_like=True):
    """What a later `deliveries` record needs of the notification."""

    notification_id: str
    account_id: str | None
    scenario: str
    attempts: int
    key: bytes | None
    """Of the command, and so of its deliveries."""


class Receipts:
    """Receipts of one installation in Redis. Every method may raise StoreAwayError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._redis = redis
        self._prefix = prefix

    def claim(self, msgid: str, receipt: Receipt) -> Claim:
        """Return what notes whose message `msgid` is, and finds the word that came before.

        Who leaves it publishes that word.
        """
        key, word_key = self._keys(msgid)
        return Claim(key, _encode(receipt), _RECEIPT_SECONDS, word_key)

    async def match(self, msgid: str, word: LaterWord) -> Receipt | None:
        """Return whose message WeChat speaks of; the caller publishes the word.

        None: nobody's yet. The word is kept, and the sender publishes it if the message turns
        out to be ours. A repeat of a kept word returns None too.
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

"""The access token: one for all workers, renewed by one of them before it ends.

Tencent's stable token, so that asking again does no harm, shared through Redis, so that nobody
asks needlessly. While Redis is away each worker goes on with the last token it knew.
"""

import asyncio
import random as random_module
import secrets
from collections.abc import Callable
from typing import TypeGuard

from agents.channel import StoreAwayError
from agents.clock import Clock, wall_clock
from agents.outcomes import Held, TryLater
from app.channels.wechat.client import WechatClient
from app.channels.wechat.outcomes import token_outcome
from app.channels.wechat.token_store import LOCK_SECONDS, TokenRecord, TokenStore
from app.http import Answer, NoAnswer
from streams.metrics import TOKEN_SECONDS
from streams.times import SECOND

# WeChat hands out the next token only in the last five minutes of this one, during which both
# are valid. The workers begin at different moments within them.
EARLY_SECONDS = 300
EARLY_SPREAD_SECONDS = 60
POLL_SECONDS = 0.1
REFUSED_HOLD_SECONDS = 60.0


class Tokens:
    """Gives out the token of one official account. Lives on one event loop.

    Numbered as in the rules it follows:
    1. Known and not near its end: that one. One renewal at a time in this process.
    2. Shared in Redis and good: adopted.
    3. With the lock: look again, then ask WeChat; write only over the generation that was read.
    4. WeChat gives back the very token it refuses: one forced renewal, within Tencent's limits
       of all workers together; else the channel is held.
    """

    def __init__(
        self,
        client: WechatClient,
        store: TokenStore,
        *,
        now: Clock = wall_clock,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """`now` returns instants; `random` (0 to 1) spreads renewals."""
        self._client = client
        self._store = store
        self._now = now
        self._early = int((EARLY_SECONDS - random() * EARLY_SPREAD_SECONDS) * SECOND)
        self._owner = secrets.token_hex(16)
        self._known: TokenRecord | None = None
        self._renewal = asyncio.Lock()
        TOKEN_SECONDS.set_function(self._remaining_s)

    async def get(self) -> str | TryLater | Held:
        """Return a token that should be good, or why there is none."""
        known = self._known
        if known is None or self._is_ending(known):
            async with self._renewal:
                known = self._known
                if known is None or self._is_ending(known):
                    return await self._renew(refused=None)
        return known.token

    async def replace(self, refused: str) -> str | TryLater | Held:
        """Return another token than the one WeChat refused, or why there is none."""
        async with self._renewal:
            known = self._known
            if known is not None and known.token != refused:
                # Somebody replaced it while this caller's request was under way.
                return known.token
            self._known = None
            return await self._renew(refused)

    def _remaining_s(self) -> float:
        known = self._known
        return 0.0 if known is None else max((known.expires_at - self._now()) / SECOND, 0.0)

    def _is_ending(self, record: TokenRecord) -> bool:
        return record.expires_at - self._now() <= self._early

    def _adopt(self, record: TokenRecord) -> str:
        self._known = record
        return record.token

    def _known_or(self, trouble: TryLater | Held) -> str | TryLater | Held:
        """Return the known token while it lives, though it can't be renewed."""
        known = self._known
        if known is not None and known.expires_at > self._now():
            return known.token
        return trouble

    async def _renew(self, refused: str | None) -> str | TryLater | Held:
        try:
            return await self._renew_shared(refused)
        except StoreAwayError:
            living = self._known_or(TryLater("token: Redis is away"))
            if isinstance(living, str):
                return living
            # The stable token is the same for whoever asks: no harm without the lock.
            fetched = await self._fetch(0, force_refresh=False)
            if not isinstance(fetched, TokenRecord):
                return fetched
            return _refused() if fetched.token == refused else self._adopt(fetched)

    async def _renew_shared(self, refused: str | None) -> str | TryLater | Held:
        """Adopt what another worker shared, or renew and share it."""
        deadline = self._now() + LOCK_SECONDS * SECOND
        while True:
            shared = await self._store.read()
            if _is_good(shared, refused) and not self._is_ending(shared):
                return self._adopt(shared)
            if await self._store.lock(self._owner):
                try:
                    return await self._renew_locked(refused)
                finally:
                    await self._store.unlock(self._owner)
            if _is_good(shared, refused) and shared.expires_at > self._now():
                # Somebody is renewing it, and until then it is as good as ever.
                return shared.token
            if self._now() > deadline:
                return self._known_or(TryLater("token: nobody renewed it"))
            await asyncio.sleep(POLL_SECONDS)

    async def _renew_locked(self, refused: str | None) -> str | TryLater | Held:
        shared = await self._store.read()
        if _is_good(shared, refused) and not self._is_ending(shared):
            return self._adopt(shared)
        generation = shared.generation + 1 if shared is not None else 1
        fetched = await self._fetch(generation, force_refresh=False)
        if isinstance(fetched, TokenRecord) and fetched.token == refused:
            if not await self._store.may_force():
                return _refused()
            fetched = await self._fetch(generation, force_refresh=True)
        if not isinstance(fetched, TokenRecord):
            return self._known_or(fetched)
        if fetched.token == refused:
            return _refused()
        lifetime_s = max(1, (fetched.expires_at - self._now()) // SECOND)
        if not await self._store.write(fetched, lifetime_s):
            newer = await self._store.read()
            if _is_good(newer, refused):
                return self._adopt(newer)
        return self._adopt(fetched)

    async def _fetch(
        self, generation: int, *, force_refresh: bool
    ) -> TokenRecord | TryLater | Held:
        issued_at = self._now()
        answer = await self._client.get_token(force_refresh=force_refresh)
        return _read_token(answer, issued_at, generation) or token_outcome(answer, issued_at)


def _is_good(record: TokenRecord | None, refused: str | None) -> TypeGuard[TokenRecord]:
    return record is not None and record.token != refused


def _refused() -> Held:
    return Held("token: WeChat refuses the one it gives out", REFUSED_HOLD_SECONDS, 40001)


def _read_token(answer: Answer | NoAnswer, issued_at: int, generation: int) -> TokenRecord | None:
    if isinstance(answer, NoAnswer) or answer.status != 200 or answer.body is None:
        return None
    token, lifetime_s = answer.body.get("access_token"), answer.body.get("expires_in")
    if not isinstance(token, str) or not token or not isinstance(lifetime_s, int):
        return None
    return TokenRecord(token, issued_at, issued_at + lifetime_s * SECOND, generation)

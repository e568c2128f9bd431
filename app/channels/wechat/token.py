"""The access token: one for all workers, renewed by one of them before it expires.

It is Tencent's stable token, so that asking again does no harm. Workers share it through Redis, so
that none asks needlessly. While Redis is away each worker uses the last token that it knew.
"""

import asyncio
import random as random_module
import secrets
from collections.abc import Callable, Mapping
from typing import TypeGuard

from prometheus_client import Gauge

from agents.channel import StoreAwayError
from agents.clock import Clock, wall_clock
from agents.outcomes import Held
from app.channels.wechat.client import WechatClient
from app.channels.wechat.outcomes import RULES, Rule, token_outcome
from app.channels.wechat.token_store import LOCK_SECONDS, TokenRecord, TokenStore, Trouble
from app.http import Answer, NoAnswer
from streams.times import SECOND

TOKEN_AGE_SECONDS = Gauge("dialwatch_wechat_token_age_seconds", "Since WeChat gave the token")
TOKEN_SECONDS = Gauge("dialwatch_wechat_token_remaining_seconds", "Life left of the WeChat token")

# WeChat gives the next token only in the last five minutes of the present one, when both are valid.
# Each worker begins to renew at another moment within them.
EARLY_SECONDS = 300
EARLY_SPREAD_SECONDS = 60
POLL_SECONDS = 0.1
# While another worker renews it, look for the new token after this pause.
LOOK_SECONDS = 1.0
REFUSED_HOLD_SECONDS = 60.0
# The first pause between two failed requests, of all workers together.
FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 60.0
# By so much workers' clocks may differ before a pause that another one chose is no longer believed.
CLOCKS_APART_SECONDS = 15.0


class Tokens:
    """Returns the token of one official account. Belongs to one event loop.

    1. A valid token that this worker knows is used. Shortly before it expires it is renewed in the
       background, by one task at a time.
    2. Else a valid token in Redis is used.
    3. Else the worker takes the lock, looks again, and asks WeChat. It writes the new token only
       if Redis still has the one that it read before.
    4. A token that WeChat refuses is none any more. If WeChat returns the very same, one renewal is
       forced, within Tencent's limits for all workers together; else the channel is held.
    5. If WeChat returns none, nobody asks again for a growing time. If no valid token is left
       either, the channel is held for that time.
    """

    def __init__(
        self,
        client: WechatClient,
        store: TokenStore,
        *,
        rules: Mapping[int, Rule] = RULES,
        now: Clock = wall_clock,
        random: Callable[[], float] = random_module.random,
        asks_at_once: bool = False,
    ) -> None:
        """`rules`: the table of codes. `now` returns instants; `random` (0 to 1) spreads renewals
        over time.

        `asks_at_once`: don't wait after a failure, for people who have just repaired something.
        """
        self._client = client
        self._store = store
        self._rules = rules
        self._now = now
        self._random = random
        self._asks_at_once = asks_at_once
        self._early = int((EARLY_SECONDS - random() * EARLY_SPREAD_SECONDS) * SECOND)
        self._owner = secrets.token_hex(16)
        self._known: TokenRecord | None = None
        self._refused: str | None = None
        """What WeChat refused, until a renewal knew of that."""
        self._trouble: Trouble | None = None
        self.renewal: asyncio.Task[str | Held] | None = None
        """The last renewal; it may be under way."""
        self._look_at = 0
        """The instant of the next look into Redis, while another worker renews."""
        TOKEN_SECONDS.set_function(self._remaining_s)
        TOKEN_AGE_SECONDS.set_function(self._age_s)

    @property
    def current(self) -> str | None:
        """The known token, while it should be valid; None: `get` says what there is."""
        known = self._known
        if known is None or known.token == self._refused or known.expires_at <= self._now():
            return None
        return known.token

    async def get(self) -> str | Held:
        """Return a token that should be valid, or why there is none."""
        token = self.current
        if token is None:
            return await self._renewed()
        if self._known is not None and self._is_ending(self._known) and self._is_time_to_ask():
            self._begin()
        return token

    def refuse(self, token: str) -> None:
        """Note that WeChat refused a token: `get` returns another one, or why there is none."""
        known = self._known
        # Else it was replaced while the caller's request was under way.
        if known is None or known.token == token:
            self._known, self._refused = None, token

    def _is_time_to_ask(self) -> bool:
        """May this worker ask now? Not while one asks already, or in a pause after a failure."""
        is_asking = self.renewal is not None and not self.renewal.done()
        is_looking = self._is_before(self._look_at, LOOK_SECONDS)
        return not (is_asking or is_looking or self._must_wait(self._trouble))

    def _is_before(self, instant: int, most_s: float) -> bool:
        """Is it before an instant that was `most_s` seconds away at most when it was chosen? Where
        it is further away clocks disagree, another worker's and ours or ours and itself."""
        return 0 < instant - self._now() <= most_s * SECOND

    def _begin(self) -> asyncio.Task[str | Held]:
        # In a task of its own: a caller that waits for it may be cancelled, the others not.
        self.renewal = asyncio.create_task(self._renew(self._refused))
        return self.renewal

    async def _renewed(self) -> str | Held:
        """Wait for the renewal under way, or start one and wait for it."""
        while True:
            renewal = self.renewal
            if renewal is None or renewal.done():
                if self._must_wait(self._trouble):
                    return self._held(self._trouble)
                renewal = self._begin()
            token = await asyncio.shield(renewal)
            # A renewal that began before this token was refused may return the same token.
            if token != self._refused:
                return token

    def _remaining_s(self) -> float:
        known = self._known
        return 0.0 if known is None else max((known.expires_at - self._now()) / SECOND, 0.0)

    def _age_s(self) -> float:
        known = self._known
        return 0.0 if known is None else max((self._now() - known.issued_at) / SECOND, 0.0)

    def _is_ending(self, record: TokenRecord) -> bool:
        # A token that was short-lived from the start must not be renewed again and again.
        early = min(self._early, (record.expires_at - record.issued_at) // 2)
        return record.expires_at - self._now() <= early

    def _adopt(self, record: TokenRecord) -> str:
        self._known, self._trouble = record, None
        return record.token

    def _must_wait(self, trouble: Trouble | None) -> TypeGuard[Trouble]:
        if trouble is None or self._asks_at_once:
            return False
        return self._is_before(trouble.until, MOST_PAUSE_SECONDS + CLOCKS_APART_SECONDS)

    def _held(self, trouble: Trouble) -> Held:
        left_s = max(0, trouble.held_until - self._now()) / SECOND
        return Held(trouble.reason, left_s, trouble.error_code)

    def _fail(self, held: Held, failures: int) -> Trouble:
        """Note that there is no token, and until when nobody asks again."""
        pause_s = min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 16))
        pause_s *= 1 + self._random() / 4
        now = self._now()
        self._trouble = Trouble(
            held.reason,
            held.error_code,
            failures + 1,
            until=now + int(min(MOST_PAUSE_SECONDS, max(held.for_s, pause_s)) * SECOND),
            held_until=now + int(max(held.for_s, pause_s) * SECOND),
        )
        return self._trouble

    async def _renew(self, refused: str | None) -> str | Held:
        try:
            return await self._renew_any(refused)
        finally:
            # What could be done about it was done. The next one takes what WeChat gives out.
            if self._refused == refused:
                self._refused = None

    async def _renew_any(self, refused: str | None) -> str | Held:
        try:
            return await self._renew_shared(refused)
        except StoreAwayError:
            known = self._known
            if known is not None and known.expires_at > self._now():
                self._look_at = self._now() + int(LOOK_SECONDS * SECOND)
                return known.token
            # Without the lock this does no harm: everyone who asks gets the same stable token.
            fetched = await self._fetch(0, force_refresh=False)
            if isinstance(fetched, TokenRecord) and fetched.token != refused:
                return self._adopt(fetched)
            held = fetched if isinstance(fetched, Held) else _refused()
            return self._held(self._fail(held, self._trouble.failures if self._trouble else 0))

    async def _renew_shared(self, refused: str | None) -> str | Held:
        """Use the token that another worker shared, or renew it and share it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_SECONDS
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
                # Another worker is renewing it; until then it is valid.
                self._look_at = self._now() + int(LOOK_SECONDS * SECOND)
                return self._adopt(shared)
            if loop.time() > deadline:
                return self._held(self._fail(Held("token: nobody renewed it", 0.0), 0))
            await asyncio.sleep(POLL_SECONDS)

    async def _renew_locked(self, refused: str | None) -> str | Held:
        shared = await self._store.read()
        if _is_good(shared, refused) and not self._is_ending(shared):
            return self._adopt(shared)
        trouble = await self._store.read_trouble()
        if self._must_wait(trouble):
            self._trouble = trouble
            return self._held(trouble)
        generation = shared.generation + 1 if shared is not None else 1
        fetched = await self._fetch(generation, force_refresh=False)
        if isinstance(fetched, TokenRecord) and fetched.token == refused:
            if await self._store.may_force():
                fetched = await self._fetch(generation, force_refresh=True)
            if isinstance(fetched, TokenRecord) and fetched.token == refused:
                return _refused()
        if isinstance(fetched, Held):
            trouble = self._fail(fetched, trouble.failures if trouble is not None else 0)
            await self._store.write_trouble(trouble)
            return self._held(trouble)
        if trouble is not None:
            await self._store.write_trouble(None)
        lifetime_s = max(1, (fetched.expires_at - self._now()) // SECOND)
        if not await self._store.write(fetched, lifetime_s):
            newer = await self._store.read()
            if _is_good(newer, refused):
                return self._adopt(newer)
        return self._adopt(fetched)

    async def _fetch(self, generation: int, *, force_refresh: bool) -> TokenRecord | Held:
        issued_at = self._now()
        answer = await self._client.get_token(force_refresh=force_refresh)
        return _read_token(answer, issued_at, generation) or token_outcome(
            answer, issued_at, self._rules
        )


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
    if lifetime_s <= 0:  # else it would be asked for again at once, and for ever
        return None
    return TokenRecord(token, issued_at, issued_at + lifetime_s * SECOND, generation)

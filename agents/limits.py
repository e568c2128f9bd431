"""Recipients to whom the provider delivers nothing more for a while: their messages wait together.

One object for one channel, as with `agents/holds.py`: a recipient may be the customer of several
accounts. When the rest is over one message tries for all; where it is told the same again, all that
waited until then is given up, because each of them would be told so.
"""

import asyncio
from dataclasses import dataclass, field

from agents.outcomes import Outcome, Refused, Sent, TryLater

MOST_TRIES = 2
_MOST_REMEMBERED = 10_000


@dataclass
class _Limit:
    refusal: Refused
    until: float
    """When one message may try again, by the event loop's clock, as all times here."""
    strikes: int
    given_up_at: float = -1.0
    """Messages that came until then are given up."""
    has_probe: bool = False
    change: asyncio.Event = field(default_factory=asyncio.Event)


class Limits:
    """The limited recipients of one channel."""

    def __init__(self) -> None:
        self._standing: dict[str, _Limit] = {}

    def is_limited(self, recipient: str) -> bool:
        """Is this recipient known to be limited now?"""
        limit = self._standing.get(recipient)
        return limit is not None and limit.until > asyncio.get_running_loop().time()

    async def enter(self, recipient: str, taken_at: float) -> Refused | None:
        """Wait until a message that came at `taken_at` may try; or return why it is given up.

        Whoever may try gives it back with `leave`.
        """
        while (limit := self._standing.get(recipient)) is not None:
            if taken_at <= limit.given_up_at:
                return limit.refusal
            left_s = limit.until - asyncio.get_running_loop().time()
            if left_s <= 0 and not limit.has_probe:
                limit.has_probe = True
                return None
            try:
                async with asyncio.timeout(None if limit.has_probe else left_s):
                    await limit.change.wait()
            except TimeoutError:
                continue
        return None

    def leave(self, recipient: str, outcome: Outcome | None) -> None:
        """Take the outcome of a try; None: nothing was tried."""
        limit = self._standing.get(recipient)
        if limit is None:
            return
        limit.has_probe = False
        if isinstance(outcome, Sent):
            del self._standing[recipient]
        self._wake(limit)

    def strike(self, recipient: str, outcome: TryLater, for_s: float, strikes: int) -> bool:
        """Note that the recipient is limited for `for_s` seconds. Are its messages given up?

        `strikes`: how often this very message has met it.
        """
        now = asyncio.get_running_loop().time()
        limit = self._standing.get(recipient)
        if limit is None:
            if len(self._standing) >= _MOST_REMEMBERED:
                self._forget(now)
            refusal = Refused(outcome.error, outcome.error_code)
            limit = self._standing[recipient] = _Limit(refusal, now, strikes - 1)
        if now >= limit.until + for_s:
            # Nobody tried for so long that this is a new one.
            limit.strikes = strikes - 1
        if now >= limit.until:
            # What was under way when it began is no second strike.
            limit.strikes += 1
            limit.until = now + for_s
        if max(limit.strikes, strikes) < (outcome.most_tries or MOST_TRIES):
            return False
        self.give_up(recipient)
        return True

    def give_up(self, recipient: str) -> None:
        """Give up all messages that wait for a limited recipient."""
        limit = self._standing[recipient]
        limit.given_up_at = asyncio.get_running_loop().time()
        self._wake(limit)

    def _forget(self, now: float) -> None:
        self._standing = {
            recipient: limit
            for recipient, limit in self._standing.items()
            if limit.until > now or limit.has_probe
        }

    @staticmethod
    def _wake(limit: _Limit) -> None:
        limit.change.set()
        limit.change = asyncio.Event()

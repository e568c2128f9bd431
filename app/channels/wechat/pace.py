"""Limits of speed: for one worker as a whole, and for each recipient.

Both use the event loop's clock.
"""

import asyncio
from collections import deque

# What one customer can bear, and below WeChat's unpublished limits.
RECIPIENT_BURST = 30
RECIPIENT_INTERVAL_SECONDS = 0.5
_MOST_RECIPIENTS = 10_000

SLOWEST = 1 / 16
SLOWER_AGAIN_SECONDS = 10.0
RECOVERY_SECONDS = 60.0
# Places that a busy event loop gave too late are made up for, but no more than these.
_MOST_LATE_SECONDS = 0.1


class Pace:
    """Evenly spaced sends, at most `rate` a second; fewer for a while after an overload."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0
        """When the next place is free, by the event loop's clock."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._slowed_at: float | None = None
        self._slowed_to = 1.0

    async def wait(self) -> None:
        """Wait until this message may be sent. Who is cancelled meanwhile takes no place."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._waiting and self._next <= now:
            self._next = now + self._interval_s(now)
            return
        place: asyncio.Future[None] = loop.create_future()
        self._waiting.append(place)
        if self._alarm is None:
            self._alarm = loop.call_at(self._next, self._give_places)
        await place

    def _give_places(self) -> None:
        """Let those go who are due, and come back for the next."""
        loop = asyncio.get_running_loop()
        # The clock may show a hair less than what the alarm was set to.
        now = max(loop.time(), self._next)
        while self._waiting and self._next <= now:
            place = self._waiting.popleft()
            if not place.done():  # else its message is gone
                place.set_result(None)
                self._next = max(self._next, now - _MOST_LATE_SECONDS) + self._interval_s(now)
        self._alarm = loop.call_at(self._next, self._give_places) if self._waiting else None

    def _interval_s(self, now: float) -> float:
        return 1 / (self._rate * self._share(now))

    def on_overload(self) -> None:
        """Halve the rate, which recovers within a minute. Calls at one moment count once."""
        now = asyncio.get_running_loop().time()
        if self._slowed_at is None or now - self._slowed_at >= SLOWER_AGAIN_SECONDS:
            self._slowed_to = max(SLOWEST, self._share(now) / 2)
            self._slowed_at = now

    def _share(self, now: float) -> float:
        """Return the part of the rate that is allowed now, 0 to 1."""
        if self._slowed_at is None:
            return 1.0
        return min(1.0, self._slowed_to + (now - self._slowed_at) / RECOVERY_SECONDS)


class RecipientPace:
    """Allows each recipient a burst, then a low steady rate."""

    def __init__(self) -> None:
        # When the recipient may get a whole burst again.
        self._whole_at: dict[str, float] = {}

    def pause_s(self, recipient: str) -> float:
        """Count one message to a recipient; return how many seconds it must wait."""
        now = asyncio.get_running_loop().time()
        if len(self._whole_at) >= _MOST_RECIPIENTS:
            self._whole_at = {key: at for key, at in self._whole_at.items() if at > now}
        whole_at = max(now, self._whole_at.get(recipient, now)) + RECIPIENT_INTERVAL_SECONDS
        self._whole_at[recipient] = whole_at
        return max(0.0, whole_at - now - RECIPIENT_BURST * RECIPIENT_INTERVAL_SECONDS)

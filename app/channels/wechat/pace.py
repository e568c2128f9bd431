"""Not too fast: for one worker as a whole, and for each recipient.

Both go by the event loop's clock and only count; who must wait does so itself.
"""

import asyncio

# What one customer's phone bears, and WeChat's unpublished limits with it.
RECIPIENT_BURST = 30
RECIPIENT_INTERVAL_SECONDS = 0.5
_MOST_RECIPIENTS = 10_000

SLOWEST = 1 / 16
SLOWER_AGAIN_SECONDS = 10.0
RECOVERY_SECONDS = 60.0


class Pace:
    """Evenly spaced sends, at most `rate` a second; fewer for a while after an overload."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0
        self._slowed_at: float | None = None
        self._slowed_to = 1.0

    async def wait(self) -> None:
        """Wait for this send's place."""
        now = asyncio.get_running_loop().time()
        place = max(now, self._next)
        self._next = place + 1 / (self._rate * self._share(now))
        await asyncio.sleep(place - now)

    def on_overload(self) -> None:
        """Halve the rate; it recovers within a minute. Answers of one moment count once."""
        now = asyncio.get_running_loop().time()
        if self._slowed_at is None or now - self._slowed_at >= SLOWER_AGAIN_SECONDS:
            self._slowed_to = max(SLOWEST, self._share(now) / 2)
            self._slowed_at = now

    def _share(self, now: float) -> float:
        """Return which part of the rate is allowed now."""
        if self._slowed_at is None:
            return 1.0
        return min(1.0, self._slowed_to + (now - self._slowed_at) / RECOVERY_SECONDS)


class RecipientPace:
    """A burst for each recipient, then a steady trickle."""

    def __init__(self) -> None:
        # When the recipient's allowance is whole again.
        self._whole_at: dict[str, float] = {}

    def pause_s(self, recipient: str) -> float:
        """Count one message to a recipient and return how long it must wait."""
        now = asyncio.get_running_loop().time()
        if len(self._whole_at) >= _MOST_RECIPIENTS:
            self._whole_at = {key: at for key, at in self._whole_at.items() if at > now}
        whole_at = max(now, self._whole_at.get(recipient, now)) + RECIPIENT_INTERVAL_SECONDS
        self._whole_at[recipient] = whole_at
        return max(0.0, whole_at - now - RECIPIENT_BURST * RECIPIENT_INTERVAL_SECONDS)

"""WeChat's quotas: messages a day (until midnight in Shanghai), a minute, and to one recipient."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable

from msgspec import Struct

CLEARINGS_A_MONTH = 10
_DAY, _MINUTE, _SHANGHAI = 86_400, 60, 8 * 3600


class QuotaLimits(Struct, kw_only=True, forbid_unknown_fields=True):
    """The limits; 0: none. Only the daily one is documented; users have reported the others."""

    daily: int = 100_000
    per_minute: int = 0
    per_recipient: int = 0
    """The most messages to one openid within a minute."""
    duplicate_s: float = 0.0
    """The same content to the same openid is refused within so many seconds."""


class Quotas:
    """Counts accepted messages. `now` returns seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.limits = QuotaLimits()
        self._now = now
        self._today: tuple[int, int] = (0, 0)
        self._minute: tuple[int, int] = (0, 0)
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        self._contents: dict[tuple[str, str], float] = {}
        self._clearings: Counter[str] = Counter()

    def error(self, openid: str, content: str) -> int:
        """Return the errcode for one more message; 0: it is accepted and counted."""
        limits, now = self.limits, self._now()
        day, minute = self.used(), self._used(self._minute, int(now // _MINUTE))
        recent = self._recent[openid]
        while recent and now - recent[0] >= _MINUTE:
            recent.popleft()
        said_at = self._contents.get((openid, content))
        if day >= limits.daily > 0:
            return 45009
        if minute >= limits.per_minute > 0:
            return 45011
        if len(recent) >= limits.per_recipient > 0:
            return 43117
        if said_at is not None and now - said_at < limits.duplicate_s:
            return 40241
        self._today = (self._day(), day + 1)
        self._minute = (int(now // _MINUTE), minute + 1)
        if limits.per_recipient:
            recent.append(now)
        if limits.duplicate_s:
            self._contents[openid, content] = now
        return 0

    def used(self) -> int:
        """Return how many messages were accepted today, or since the quota was cleared."""
        return self._used(self._today, self._day())

    def clear(self, month: str) -> int:
        """Reset the day's quota; return 0, or 48006 where that was done too often this month."""
        if self._clearings[month] >= CLEARINGS_A_MONTH:
            return 48006
        self._clearings[month] += 1
        self._today = (0, 0)
        return 0

    def _day(self) -> int:
        return int((self._now() + _SHANGHAI) // _DAY)

    @staticmethod
    def _used(counted: tuple[int, int], period: int) -> int:
        return counted[1] if counted[0] == period else 0

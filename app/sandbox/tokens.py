"""WeChat's access tokens: classic ones and stable ones, which are independent of each other.

Follows the documentation of `getStableAccessToken` and `getAccessToken`. The stable token is the
same for everyone who asks, until its last five minutes; each request for a classic one gets a new
one. The previous token of each kind stays valid for five minutes.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

LIFETIME_SECONDS = 7200
GRACE_SECONDS = 300
FORCED_A_DAY = 20
FORCED_SECONDS_APART = 30
STABLE_A_MINUTE = 10_000
STABLE_A_DAY = 500_000
CLASSIC_A_DAY = 2000


@dataclass
class _Family:
    current: str = ""
    expires_at: float = 0.0
    previous: str = ""
    previous_until: float = 0.0

    def renew(self, now: float) -> None:
        self.previous, self.previous_until = self.current, now + GRACE_SECONDS
        self.current = secrets.token_urlsafe(96)
        self.expires_at = now + LIFETIME_SECONDS


@dataclass
class IssuedTokens:
    """The tokens that were issued. `now` returns seconds; the control plane may move it forward."""

    now: Callable[[], float]
    requests: int = 0
    renewals: int = 0
    _stable: _Family = field(default_factory=_Family)
    _classic: _Family = field(default_factory=_Family)
    _issued: set[str] = field(default_factory=set)
    _forced: list[float] = field(default_factory=list)
    _counts: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def quota_error(self, family: str) -> int:
        """Count a request; return its errcode, 0: none. A day is any 24 hours."""
        now = self.now()
        counts = self._counts
        for period, seconds in (("minute", 60), ("day", 86_400)):
            began, number = counts.get((family, period), (now, 0))
            counts[family, period] = (now, 1) if now - began >= seconds else (began, number + 1)
        if counts[family, "day"][1] > (STABLE_A_DAY if family == "stable" else CLASSIC_A_DAY):
            return 45009
        return 45011 if family == "stable" and counts[family, "minute"][1] > STABLE_A_MINUTE else 0

    def stable(self, *, force_refresh: bool) -> tuple[str, int]:
        """Return the token and the seconds it has left."""
        self.requests += 1
        now = self.now()
        if force_refresh and self._may_force(now):
            self._forced.append(now)
            self._renew(self._stable, now)
        elif self._stable.expires_at - now < GRACE_SECONDS:
            self._renew(self._stable, now)
        return self._stable.current, int(self._stable.expires_at - now)

    def classic(self) -> tuple[str, int]:
        """Return a new token."""
        self.requests += 1
        self._renew(self._classic, self.now())
        return self._classic.current, LIFETIME_SECONDS

    def rotate(self) -> None:
        """Make the stable token invalid at once, as operators do after a leak."""
        self._renew(self._stable, self.now())
        self._stable.previous = ""

    def error(self, token: str | None) -> int:
        """Return 0 for a valid token, else WeChat's errcode for what is wrong with it."""
        now = self.now()
        if not token:
            return 41001
        for family in (self._stable, self._classic):
            if token == family.current:
                return 0 if family.expires_at > now else 42001
            if token == family.previous and family.previous_until > now:
                return 0
        return 40001 if token in self._issued else 40014

    def _may_force(self, now: float) -> bool:
        recent = [at for at in self._forced if now - at < 86_400]
        self._forced = recent
        return len(recent) < FORCED_A_DAY and (
            not recent or now - recent[-1] >= FORCED_SECONDS_APART
        )

    def _renew(self, family: _Family, now: float) -> None:
        family.renew(now)
        self.renewals += 1
        self._issued.add(family.current)

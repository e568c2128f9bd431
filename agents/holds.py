"""What stops everybody who sends by one channel, until a probe finds it over.

One object for one channel, whoever sends by it: what one agent learns holds the others too. A
hold that is over lets one message through as a probe; what becomes of it opens the channel or
holds it again. A provider that doesn't answer is put on hold too: while it is away, each further
attempt would only put one more message in doubt.
"""

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from agents.clock import Clock, wall_clock
from agents.outcomes import Held, Outcome, TryLater, Unclear
from streams.metrics import HOLDS
from streams.times import SECOND, format_instant

_log = logging.getLogger(__name__)

AWAY = "away"
# Customers in a row without an answer. Fewer may be the trouble of those customers only.
AWAY_AFTER = 5
AWAY_FIRST_SECONDS = 1.0
AWAY_MOST_SECONDS = 15.0


class HoldView(NamedTuple):
    """A hold as operators see it."""

    channel: str
    reason: str
    """The provider's code, or `away`."""
    scope: str | None
    """The only template that waits; None: everything does."""
    until: str
    """RFC 3339: when the next probe goes."""
    detail: str
    """The provider's own words."""
    since: str
    """RFC 3339: when the channel was first held for this."""


@dataclass
class Hold:
    """Why nobody, or nobody of one scope, may send."""

    reason: str
    detail: str
    until: float
    """By the event loop's clock; then a probe goes."""
    until_instant: int
    """The same for people."""
    since_instant: int
    """When it began; a probe that is told the same again doesn't begin it anew."""
    failures: int = 0
    has_probe: bool = False


class Holds:
    """The holds of one channel, by scope; scope None is the whole channel."""

    def __init__(
        self,
        channel: str,
        *,
        now: Clock = wall_clock,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """`now` returns instants, `random` (0 to 1) spreads probes."""
        self._channel = channel
        self._now = now
        self._random = random
        self._standing: dict[str | None, Hold] = {}
        self._unanswered: set[Hashable] = set()
        self._listeners: list[Callable[[], None]] = []
        self._shown: set[str] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def join(self, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever somebody may be let through who wasn't before."""
        self._listeners.append(on_change)

    def views(self, zone: tzinfo) -> list[HoldView]:
        """Return what is on hold now."""
        return [
            HoldView(
                self._channel,
                hold.reason,
                scope,
                format_instant(hold.until_instant, zone),
                hold.detail,
                format_instant(hold.since_instant, zone),
            )
            for scope, hold in self._in_force().items()
        ]

    def is_open(self, scope: str) -> bool:
        """Whether a message of this scope may go now, if only as a probe."""
        now = asyncio.get_running_loop().time()
        return not any(
            hold.has_probe or hold.until > now for _, hold in self._holds_of((None, scope))
        )

    def begin(self, scope: str) -> list[str | None]:
        """Let a message go; return the holds that it probes. Give them back with `learn`."""
        probed = []
        for held, hold in self._holds_of((None, scope)):
            hold.has_probe = True
            probed.append(held)
        return probed

    def learn(
        self, probes: Iterable[str | None], customer: Hashable, outcome: Outcome | None
    ) -> None:
        """Begin, prolong or end holds by what became of an attempt; None: none was made."""
        probed = list(probes)
        before = len(self._standing)
        for _, hold in self._holds_of(probed):
            hold.has_probe = False
        if outcome is not None:
            self._draw_conclusions(probed, customer, outcome)
        if probed or isinstance(outcome, Held) or len(self._standing) != before:
            self._on_change()

    def _draw_conclusions(
        self, probed: list[str | None], customer: Hashable, outcome: Outcome
    ) -> None:
        if isinstance(outcome, Unclear) or (
            isinstance(outcome, TryLater) and outcome.error_code is None
        ):
            self._unanswered.add(customer)
            standing = self._standing.get(None)
            if standing is not None and None in probed:
                self._hold_away(outcome.error, standing.failures + 1)
            elif standing is None and len(self._unanswered) >= AWAY_AFTER:
                self._hold_away(outcome.error, 0)
            return
        self._unanswered.clear()
        if isinstance(outcome, Held):
            reason = str(outcome.error_code or outcome.reason)
            self._hold(outcome.scope, reason, outcome.reason, outcome.for_s)
        for scope in probed:
            if not isinstance(outcome, Held) or scope != outcome.scope:
                del self._standing[scope]

    def _hold_away(self, error: str, failures: int) -> None:
        pause_s = min(AWAY_MOST_SECONDS, AWAY_FIRST_SECONDS * 2**failures)
        self._hold(None, AWAY, error, pause_s * (0.75 + self._random() / 4), failures)

    def _hold(
        self, scope: str | None, reason: str, detail: str, for_s: float, failures: int = 0
    ) -> None:
        standing = self._standing.get(scope)
        if standing is not None and standing.has_probe:
            # This attempt began before the hold; the probe under way knows better.
            return
        until = asyncio.get_running_loop().time() + for_s
        now = self._now()
        is_same = standing is not None and standing.reason == reason
        since = standing.since_instant if standing is not None and is_same else now
        self._standing[scope] = Hold(
            reason, detail, until, now + int(for_s * SECOND), since, failures
        )

    def _holds_of(self, scopes: Iterable[str | None]) -> list[tuple[str | None, Hold]]:
        return [(scope, self._standing[scope]) for scope in scopes if scope in self._standing]

    def _in_force(self) -> dict[str | None, Hold]:
        now = asyncio.get_running_loop().time()
        return {
            scope: hold
            for scope, hold in self._standing.items()
            if hold.until > now or hold.has_probe
        }

    def _on_change(self) -> None:
        for listener in self._listeners:
            listener()
        self._show()
        loop = asyncio.get_running_loop()
        ends = [hold.until for hold in self._standing.values() if hold.until > loop.time()]
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(min(ends), self._on_alarm) if ends else None

    def _on_alarm(self) -> None:
        self._alarm = None
        self._on_change()

    def _show(self) -> None:
        """Tell log and metrics."""
        details = {hold.reason: hold.detail for hold in self._in_force().values()}
        for reason in details.keys() - self._shown:
            _log.warning("%s is on hold: %s (%s)", self._channel, reason, details[reason])
        for reason in self._shown - details.keys():
            _log.info("%s is no longer on hold: %s", self._channel, reason)
        for reason in details.keys() | self._shown:
            HOLDS.labels(self._channel, reason).set(reason in details)
        self._shown = set(details)

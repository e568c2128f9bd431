"""Holds: why a channel sends nothing for a while, and the probe that ends it.

One object for one channel, whoever sends by it: what one agent learns holds the others too. A
hold that is over lets one message through as a probe; what becomes of it opens the channel or
holds it again. A provider that doesn't answer is put on hold too: while it is away, each further
attempt would only put one more message in doubt. So is one that is too busy for everybody.

Here too is known who got through lately: what one message alone meets again and again is that
message's own trouble, and it is given up; what everybody meets is waited for.
"""

import asyncio
import logging
import random as random_module
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from agents.clock import Clock, wall_clock
from agents.metrics import HOLD_SINCE, HOLDS
from agents.outcomes import Held, Outcome, Sent, TryLater, Unclear
from streams.times import SECOND, format_instant

log = logging.getLogger(__name__)

AWAY = "away"
# Customers in a row who didn't get through. Fewer may be the trouble of those customers only, but
# not where they were told so again and again and nobody else was told otherwise.
AWAY_AFTER = 5
AWAY_AFTER_ATTEMPTS = 20
AWAY_FIRST_SECONDS = 1.0
AWAY_MOST_SECONDS = 15.0
# Enough for some seconds of a busy channel, and for days of a quiet one.
LATELY = 300
# Given up: who met so many refusals in a row as others meet once in a million times.
UNLIKELY = 1e-6


class HoldView(NamedTuple):
    """A hold as operators see it."""

    channel: str
    reason: str
    """The provider's code, or `away`."""
    scope: str | None
    """The template that is on hold; None: the whole channel is."""
    until: str
    """RFC 3339: when the next probe is sent."""
    detail: str
    """The provider's own words."""
    since: str
    """RFC 3339: when the channel was first held for this."""


@dataclass
class Hold:
    """Why no message, or none of one scope, may be sent."""

    reason: str
    detail: str
    until: float
    """When a probe may be sent, by the event loop's clock."""
    until_instant: int
    """The same moment as an instant, to be shown."""
    since_instant: int
    """When it began. A probe with the same answer prolongs it and doesn't change this."""
    failures: int = 0
    has_probe: bool = False


class _Attempt(NamedTuple):
    """One attempt that says whether the channel works."""

    at: float
    customer: Hashable
    scope: str
    got_through: bool


class _Miss(NamedTuple):
    """An attempt that failed for a reason that isn't the message's own."""

    reason: str
    detail: str
    pause_s: float | None = None


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
        self._missed: list[Hashable] = []
        """The customers of the failed attempts since the last success, one entry an attempt."""
        self._lately: deque[_Attempt] = deque(maxlen=LATELY)
        self._listeners: list[Callable[[], None]] = []
        self._shown: set[str] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def join(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a message may have become free to be sent."""
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

    @property
    def is_held(self) -> bool:
        """Is the whole channel on hold, or its next message a probe?"""
        return None in self._standing

    def is_open(self, scope: str) -> bool:
        """May a message of this scope be sent now, be it as a probe?"""
        now = asyncio.get_running_loop().time()
        return not any(
            hold.has_probe or hold.until > now for _, hold in self._holds_of((None, scope))
        )

    def stops(self, probes: Collection[str | None], scope: str) -> bool:
        """Is there a hold of this scope that a message with these probes doesn't test?"""
        return any(held not in probes for held, _ in self._holds_of((None, scope)))

    def begin(self, scope: str) -> list[str | None]:
        """Note that a message is sent; return the scopes that it probes, to be given to `learn`."""
        probed = []
        for held, hold in self._holds_of((None, scope)):
            hold.has_probe = True
            probed.append(held)
        return probed

    def learn(
        self,
        probes: Iterable[str | None],
        scope: str,
        customer: Hashable,
        outcome: Outcome | None,
    ) -> None:
        """Begin, prolong or end holds by an attempt's outcome; None: no attempt was made."""
        probed = list(probes)
        before = len(self._standing)
        for _, hold in self._holds_of(probed):
            hold.has_probe = False
        if outcome is not None:
            self._draw_conclusions(probed, customer, outcome)
            self._note(scope, customer, outcome)
        if probed or isinstance(outcome, Held) or len(self._standing) != before:
            self._on_change()

    def others_since(self, at: float, customer: Hashable, scope: str | None = None) -> list[bool]:
        """Return whether each of the last attempts for other customers succeeded, in a scope; None:
        in all of them."""
        return [
            attempt.got_through
            for attempt in self._lately
            if attempt.at >= at and attempt.customer != customer and scope in {None, attempt.scope}
        ]

    def _note(self, scope: str, customer: Hashable, outcome: Outcome) -> None:
        got_through = isinstance(outcome, Sent)
        if got_through or isinstance(outcome, Held) or _miss_of(outcome) is not None:
            now = asyncio.get_running_loop().time()
            self._lately.append(_Attempt(now, customer, scope, got_through))

    def _draw_conclusions(
        self, probed: list[str | None], customer: Hashable, outcome: Outcome
    ) -> None:
        miss = _miss_of(outcome)
        if miss is not None:
            self._missed.append(customer)
            del self._missed[:-AWAY_AFTER_ATTEMPTS]
            standing = self._standing.get(None)
            if standing is not None and None in probed:
                self._hold_away(miss, standing.failures + 1)
            elif standing is None and (
                len(set(self._missed)) >= AWAY_AFTER or len(self._missed) >= AWAY_AFTER_ATTEMPTS
            ):
                self._hold_away(miss, 0)
            return
        self._missed.clear()
        if isinstance(outcome, Held):
            # Of a closed set: metrics have it as a label.
            reason = AWAY if outcome.error_code is None else str(outcome.error_code)
            self._hold(outcome.scope, reason, outcome.reason, outcome.for_s)
        for scope in probed:
            if not isinstance(outcome, Held) or scope != outcome.scope:
                del self._standing[scope]

    def _hold_away(self, miss: _Miss, failures: int) -> None:
        pause_s = miss.pause_s
        if pause_s is None:
            # The exponent is bounded: a float isn't, after days of probes.
            pause_s = min(AWAY_MOST_SECONDS, AWAY_FIRST_SECONDS * 2 ** min(failures, 16))
        pause_s *= 0.75 + self._random() / 4
        self._hold(None, miss.reason, miss.detail, pause_s, failures)

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
        """Log the hold and set its metrics."""
        in_force = self._in_force().values()
        details = {hold.reason: hold.detail for hold in in_force}
        since = {hold.reason: hold.since_instant / SECOND for hold in in_force}
        for reason in details.keys() - self._shown:
            log.warning("%s is on hold: %s (%s)", self._channel, reason, details[reason])
        for reason in self._shown - details.keys():
            log.info("%s is no longer on hold: %s", self._channel, reason)
        for reason in details.keys() | self._shown:
            HOLDS.labels(self._channel, reason).set(reason in details)
            HOLD_SINCE.labels(self._channel, reason).set(since.get(reason, 0))
        self._shown = set(details)


def is_miss(outcome: Outcome) -> bool:
    """Did an attempt fail for a reason that may concern every message?"""
    return _miss_of(outcome) is not None


def _miss_of(outcome: Outcome) -> _Miss | None:
    """Return why an attempt failed, where other messages may fail of the same; else None."""
    match outcome:
        case Unclear():
            return _Miss(AWAY, outcome.error)
        case TryLater(error_code=None):
            return _Miss(AWAY, outcome.error)
        case TryLater(is_general=True):
            return _Miss(str(outcome.error_code), outcome.error, outcome.after_s)
        case _:
            return None

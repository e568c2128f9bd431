"""Who may send now: so many at once, and nobody while the channel is on hold.

A hold that is over lets one message through as a probe; what becomes of it opens the channel or
holds it again. A provider that doesn't answer is put on hold too: while it is away, each further
attempt would only put one more message in doubt.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from agents.outcomes import Held, Outcome, TryLater, Unclear

AWAY = "away"
# Customers in a row without an answer. Fewer may be the trouble of those customers only.
AWAY_AFTER = 5
AWAY_FIRST_SECONDS = 1.0
AWAY_MOST_SECONDS = 15.0


@dataclass
class Hold:
    """Why nobody, or nobody of one scope, may send."""

    reason: str
    until: float
    """By the event loop's clock; then a probe goes."""
    failures: int = 0
    has_probe: bool = False


@dataclass
class Turn:
    """The right to make one attempt; `probes` are the holds it tries."""

    scope: str
    probes: list[str | None]


@dataclass
class _Queues:
    """Who waits, in order. Whose message is in doubt waits apart: its time runs out."""

    doubtful: deque[asyncio.Future[Turn]] = field(default_factory=deque)
    others: deque[asyncio.Future[Turn]] = field(default_factory=deque)
    is_doubtful_next: bool = True

    def pop(self) -> asyncio.Future[Turn] | None:
        """Take who is next: from the two queues in turn, so that neither holds the other up."""
        queues = [self.others, self.doubtful]
        if self.is_doubtful_next:
            queues.reverse()
        for queue in queues:
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    self.is_doubtful_next = queue is self.others
                    return waiter
        return None


class Admission:
    """The door of one channel: `enter`, make one attempt, `leave` with what became of it."""

    def __init__(
        self, most_at_once: int, random: Callable[[], float], on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called when a hold begins or ends."""
        self._holds: dict[str | None, Hold] = {}
        self._free = most_at_once
        self._random = random
        self._on_change = on_change
        self._waiting: dict[str, _Queues] = {}
        self._unanswered: set[Hashable] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def holds(self) -> dict[str | None, Hold]:
        """Return what is on hold now: a scope, or None for the whole channel."""
        now = asyncio.get_running_loop().time()
        return {
            scope: hold for scope, hold in self._holds.items() if hold.until > now or hold.has_probe
        }

    async def enter(self, scope: str, *, in_doubt: bool) -> Turn:
        """Wait until a message may be sent. Give each turn back with `leave`."""
        queues = self._waiting.setdefault(scope, _Queues())
        waiter: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        (queues.doubtful if in_doubt else queues.others).append(waiter)
        self._admit()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # The turn came together with the cancellation.
                self.leave(waiter.result(), None, None)
            raise

    def leave(self, turn: Turn, customer: Hashable, outcome: Outcome | None) -> None:
        """Give the place to the next. `outcome` None: no attempt was made."""
        self._free += 1
        for probed in turn.probes:
            self._holds[probed].has_probe = False
        if outcome is not None:
            self._learn(turn, customer, outcome)
        self._admit()

    def _learn(self, turn: Turn, customer: Hashable, outcome: Outcome) -> None:
        """Begin, prolong or end holds by what became of an attempt."""
        now = asyncio.get_running_loop().time()
        if isinstance(outcome, Unclear) or (
            isinstance(outcome, TryLater) and outcome.error_code is None
        ):
            self._unanswered.add(customer)
            standing = self._holds.get(None)
            if standing is not None and None in turn.probes:
                self._hold(None, self._away(now, standing.failures + 1))
            elif standing is None and len(self._unanswered) >= AWAY_AFTER:
                self._hold(None, self._away(now, 0))
            return
        self._unanswered.clear()
        if isinstance(outcome, Held):
            reason = str(outcome.error_code or outcome.reason)
            self._hold(outcome.scope, Hold(reason, now + outcome.for_s))
            self._end([probed for probed in turn.probes if probed != outcome.scope])
        else:
            self._end(turn.probes)

    def _away(self, now: float, failures: int) -> Hold:
        pause_s = min(AWAY_MOST_SECONDS, AWAY_FIRST_SECONDS * 2**failures)
        return Hold(AWAY, now + pause_s * (0.75 + self._random() / 4), failures)

    def _hold(self, scope: str | None, hold: Hold) -> None:
        standing = self._holds.get(scope)
        if standing is not None and standing.has_probe:
            # This attempt began before the hold; the probe under way knows better.
            return
        self._holds[scope] = hold
        self._on_change()

    def _end(self, scopes: list[str | None]) -> None:
        for scope in scopes:
            del self._holds[scope]
        if scopes:
            self._on_change()

    def _admit(self) -> None:
        """Give free places to those who may have them, and see to it that holds end in time."""
        now = asyncio.get_running_loop().time()
        admitted = True
        while self._free > 0 and admitted:
            admitted = False
            # The scopes in turn: a long queue of one template doesn't keep the others out.
            for scope in list(self._waiting):
                admitted |= self._free > 0 and self._admit_one(scope, now)
        ends = [hold.until for hold in self._holds.values() if hold.until > now]
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = (
            asyncio.get_running_loop().call_at(min(ends), self._on_alarm) if ends else None
        )

    def _admit_one(self, scope: str, now: float) -> bool:
        holds = {held: self._holds[held] for held in (None, scope) if held in self._holds}
        if any(hold.has_probe or hold.until > now for hold in holds.values()):
            return False
        queues = self._waiting.pop(scope)
        waiter = queues.pop()
        if waiter is None:
            return False
        self._waiting[scope] = queues
        for hold in holds.values():
            hold.has_probe = True
        self._free -= 1
        waiter.set_result(Turn(scope, list(holds)))
        return True

    def _on_alarm(self) -> None:
        self._alarm = None
        self._admit()
        self._on_change()

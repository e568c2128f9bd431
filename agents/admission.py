"""Who may send now: so many at once, and nobody while the channel is on hold (see `holds.py`)."""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from agents.holds import Holds
from agents.outcomes import Outcome


@dataclass
class Turn:
    """The right to make one attempt; `probes` are the scopes whose holds this attempt tests."""

    scope: str
    probes: list[str | None]


@dataclass
class _Queues:
    """Those who wait for a turn, in order. Messages in doubt have a queue of their own: they may
    be repeated for a limited time only."""

    doubtful: deque[asyncio.Future[Turn]] = field(default_factory=deque)
    others: deque[asyncio.Future[Turn]] = field(default_factory=deque)
    is_doubtful_next: bool = True

    def pop(self) -> asyncio.Future[Turn] | None:
        """Remove and return the next one, from the two queues alternately; None: nobody waits."""
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
    """Limits one sender: `enter`, make one attempt, `leave` with its outcome."""

    def __init__(self, most_at_once: int, holds: Holds) -> None:
        """`holds` are the channel's, shared by all senders that use it."""
        self._free = most_at_once
        self._holds = holds
        self._waiting: dict[str, _Queues] = {}
        holds.join(self._admit)

    async def enter(self, scope: str, *, in_doubt: bool) -> Turn:
        """Wait until one message may be sent. Every turn must be given back with `leave`."""
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
        self._holds.learn(turn.probes, turn.scope, customer, outcome)
        self._admit()

    def _admit(self) -> None:
        """Give free places to those who may have them."""
        admitted = True
        while self._free > 0 and admitted:
            admitted = False
            # The scopes in turn: a long queue of one template doesn't keep the others out.
            for scope in list(self._waiting):
                admitted |= self._free > 0 and self._admit_one(scope)

    def _admit_one(self, scope: str) -> bool:
        if not self._holds.is_open(scope):
            return False
        queues = self._waiting.pop(scope)
        waiter = queues.pop()
        if waiter is None:
            return False
        self._waiting[scope] = queues
        self._free -= 1
        waiter.set_result(Turn(scope, self._holds.begin(scope)))
        return True

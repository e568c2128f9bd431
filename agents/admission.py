"""Who may send now: so many at once, and nobody while the channel is on hold (see `holds.py`)."""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.holds import Holds
from agents.outcomes import Outcome


@dataclass
class Turn:
    """The right to make one attempt; `probes` are the scopes whose holds this attempt tests."""

    scope: str
    probes: list[str | None]


class _Waiter(NamedTuple):
    turn: asyncio.Future[Turn | None]
    is_impatient: bool


@dataclass
class _Queues:
    """Those who wait for a turn, in order. Messages in doubt have a queue of their own: they may
    be repeated for a limited time only."""

    doubtful: deque[_Waiter] = field(default_factory=deque)
    others: deque[_Waiter] = field(default_factory=deque)
    impatient: int = 0
    """How many wait for no hold."""
    is_doubtful_next: bool = True

    def add(self, waiter: _Waiter, *, in_doubt: bool) -> None:
        (self.doubtful if in_doubt else self.others).append(waiter)
        self.impatient += waiter.is_impatient

    def turn_away(self) -> None:
        """Let the impatient go: there is a hold."""
        if not self.impatient:
            return
        for queue in (self.doubtful, self.others):
            for waiter in queue:
                if waiter.is_impatient and not waiter.turn.done():
                    waiter.turn.set_result(None)
            staying = [waiter for waiter in queue if not waiter.is_impatient]
            queue.clear()
            queue.extend(staying)
        self.impatient = 0

    def pop(self) -> asyncio.Future[Turn | None] | None:
        """Remove and return the next one, from the two queues alternately; None: nobody waits."""
        queues = [self.others, self.doubtful]
        if self.is_doubtful_next:
            queues.reverse()
        for queue in queues:
            while queue:
                waiter = queue.popleft()
                self.impatient -= waiter.is_impatient
                if not waiter.turn.done():
                    self.is_doubtful_next = queue is self.others
                    return waiter.turn
        return None


class Admission:
    """Limits one sender: `enter`, make one attempt, `leave` with its outcome."""

    def __init__(self, most_at_once: int, holds: Holds) -> None:
        """`holds` are the channel's, shared by all senders that use it."""
        self._free = most_at_once
        self._holds = holds
        self._waiting: dict[str, _Queues] = {}
        holds.join(self._admit)

    async def enter(self, scope: str, *, in_doubt: bool, is_impatient: bool = False) -> Turn | None:
        """Wait until one message may be sent. Every turn must be given back with `leave`.

        `is_impatient`: wait for a free place, but for no hold; None: there is one.
        """
        queues = self._waiting.setdefault(scope, _Queues())
        waiter: asyncio.Future[Turn | None] = asyncio.get_running_loop().create_future()
        queues.add(_Waiter(waiter, is_impatient), in_doubt=in_doubt)
        self._admit()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # The turn came together with the cancellation.
                turn = waiter.result()
                if turn is not None:
                    self.leave(turn, None, None)
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
            self._waiting[scope].turn_away()
            return False
        queues = self._waiting.pop(scope)
        waiter = queues.pop()
        if waiter is None:
            return False
        self._waiting[scope] = queues
        self._free -= 1
        waiter.set_result(Turn(scope, self._holds.begin(scope)))
        return True

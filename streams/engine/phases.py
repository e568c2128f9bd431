"""A worker's phases: which may follow which, and what belongs to each. The engine enters them.

          assigned                  restored             commit failed
  IDLE ──────────────▶ TAKING_OVER ──────────▶ RUNNING ───────────────▶ RECOVERING
   ▲                    ▲                       │   │                       │
   │                    └────── the cycle has ended, after a pause ─────────┘
   │ revoked, from any but the last two         │   │ fenced
   │                                       stop │   └───────▶ ORPHANED
   │                                            ▼
   │                              STOPPING ──────────────▶ STOPPED ◀── stop, from any but RUNNING
                                           the rest is in,
                                           failed or revoked

A takeover that fails is repeated without a change of phase. A fold that raises, or a record that
Kafka refuses for good, stops the worker; that stop changes the phase.
"""

from collections.abc import Mapping
from enum import Enum, auto


class Phase(Enum):
    """What a worker does with its share of the partitions."""

    IDLE = auto()
    """It has no share, or an empty one (a spare worker)."""
    TAKING_OVER = auto()
    """Ends what previous owners left open, restores the state, finds where to read from."""
    RUNNING = auto()
    """Folds and commits."""
    RECOVERING = auto()
    """Drops a cycle whose commit failed; then takes the same share over again."""
    ORPHANED = auto()
    """A commit was refused because the group went on without this worker. Waits for a new share."""
    STOPPING = auto()
    """Commits what is folded, and takes no new share."""
    STOPPED = auto()
    """The end: no phase follows."""


FOLLOWERS: Mapping[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.IDLE, Phase.TAKING_OVER, Phase.STOPPED}),
    Phase.TAKING_OVER: frozenset({Phase.IDLE, Phase.RUNNING, Phase.STOPPED}),
    Phase.RUNNING: frozenset({Phase.IDLE, Phase.RECOVERING, Phase.ORPHANED, Phase.STOPPING}),
    Phase.RECOVERING: frozenset({Phase.IDLE, Phase.TAKING_OVER, Phase.STOPPED}),
    Phase.ORPHANED: frozenset({Phase.IDLE, Phase.STOPPED}),
    Phase.STOPPING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}
"""The phases that may follow each one. After ORPHANED a revocation comes before any assignment."""

WITH_CYCLE = frozenset({Phase.RUNNING, Phase.STOPPING})
WITH_SHARE = WITH_CYCLE | {Phase.TAKING_OVER, Phase.RECOVERING}


class IllegalPhaseError(Exception):
    """A bug: a phase that can't follow, or that lacks what belongs to it. The worker stops."""


def check(before: Phase, after: Phase, *, partitions: int | None, has_cycle: bool) -> None:
    """Raise IllegalPhaseError unless a phase may follow another and has what belongs to it.

    `partitions`: how many the share has; None: there is no share. `has_cycle`: does a cycle run?
    """
    if after not in FOLLOWERS[before]:
        raise IllegalPhaseError(f"{after.name} can't follow {before.name}")
    if has_cycle is not (after in WITH_CYCLE):
        raise IllegalPhaseError(f"{after.name} {'with' if has_cycle else 'without'} a cycle")
    # An idle worker may be a member of the group all the same: its share is then empty.
    is_right = partitions in {None, 0} if after is Phase.IDLE else partitions is None
    if not (bool(partitions) if after in WITH_SHARE else is_right):
        raise IllegalPhaseError(f"{after.name} with a share of {partitions} partitions")

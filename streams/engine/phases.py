"""A worker's phases, which may follow which, and what belongs to each. The engine enters them.

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

A takeover that fails is tried again in its phase. A fold that raised, or what Kafka refuses for
good, changes none: it stops the worker, and the stop does.
"""

from collections.abc import Mapping
from enum import Enum, auto


class Phase(Enum):
    """What a worker does with its share of the partitions."""

    IDLE = auto()
    """It has none, or an empty one: a spare."""
    TAKING_OVER = auto()
    """Settles what others left, restores the state, finds where to read."""
    RUNNING = auto()
    """Folds and commits."""
    RECOVERING = auto()
    """Drops a cycle whose commit failed; then it takes the same share over again."""
    ORPHANED = auto()
    """The group went on without it, as a commit was told: it waits for another share."""
    STOPPING = auto()
    """Commits what is folded, and takes no share any more."""
    STOPPED = auto()
    """Never enters another phase."""


FOLLOWERS: Mapping[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.IDLE, Phase.TAKING_OVER, Phase.STOPPED}),
    Phase.TAKING_OVER: frozenset({Phase.IDLE, Phase.RUNNING, Phase.STOPPED}),
    Phase.RUNNING: frozenset({Phase.IDLE, Phase.RECOVERING, Phase.ORPHANED, Phase.STOPPING}),
    Phase.RECOVERING: frozenset({Phase.IDLE, Phase.TAKING_OVER, Phase.STOPPED}),
    Phase.ORPHANED: frozenset({Phase.IDLE, Phase.STOPPED}),
    Phase.STOPPING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}
"""Which phases may follow each. A fenced worker is revoked before it is assigned anything."""

WITH_CYCLE = frozenset({Phase.RUNNING, Phase.STOPPING})
WITH_SHARE = WITH_CYCLE | {Phase.TAKING_OVER, Phase.RECOVERING}


class IllegalPhaseError(Exception):
    """A bug: a phase that can't follow, or without what belongs to it. The worker stops."""


def check(before: Phase, after: Phase, *, partitions: int | None, has_cycle: bool) -> None:
    """Raise IllegalPhaseError unless a phase may follow another and has what belongs to it.

    `partitions`: how many the share has, None: there is no share. `has_cycle`: is one being folded?
    """
    if after not in FOLLOWERS[before]:
        raise IllegalPhaseError(f"{after.name} can't follow {before.name}")
    if has_cycle is not (after in WITH_CYCLE):
        raise IllegalPhaseError(f"{after.name} {'with' if has_cycle else 'without'} a cycle")
    # Who idles may be a member all the same, which has its share: of nothing.
    is_right = partitions in {None, 0} if after is Phase.IDLE else partitions is None
    if not (bool(partitions) if after in WITH_SHARE else is_right):
        raise IllegalPhaseError(f"{after.name} with a share of {partitions} partitions")

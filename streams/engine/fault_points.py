"""Places where a fault test may kill or freeze the worker at exactly the n-th passing.

Inactive, and free, unless `DIALWATCH_TEST_CRASH_AT` or `DIALWATCH_TEST_FREEZE_AT` was set to
`<point>:<n>` when the process started; `arm` reads what it is given, never the environment.
"""

import os
import signal
from collections.abc import Mapping

HALF_PRODUCED = "half-produced"
BEFORE_OFFSETS = "before-offsets"
BEFORE_COMMIT = "before-commit"
AFTER_COMMIT = "after-commit"
DURING_SEND = "during-send"
POINTS = (HALF_PRODUCED, BEFORE_OFFSETS, BEFORE_COMMIT, AFTER_COMMIT, DURING_SEND)

_armed: dict[str, tuple[int, signal.Signals]] = {}
_passed: dict[str, int] = {}


def arm(point_and_count: str, sent: signal.Signals) -> None:
    """Send `sent` to this process when a point is passed for the n-th time: `before-commit:3`."""
    point, _, count = point_and_count.partition(":")
    if point not in POINTS:
        raise ValueError(f"{point!r} is no fault point; there are {', '.join(POINTS)}")
    _armed[point] = (int(count or 1), sent)


def arm_as(told: Mapping[str, str]) -> None:
    """Arm the points that the two variables name, for fault tests only."""
    for variable, sent in (
        ("DIALWATCH_TEST_CRASH_AT", signal.SIGKILL),
        ("DIALWATCH_TEST_FREEZE_AT", signal.SIGSTOP),
    ):
        if told.get(variable):
            arm(told[variable], sent)


def passing(point: str) -> None:
    """Count a passing of this point; when it is the armed one, send this process the signal."""
    if not _armed or point not in _armed:
        return
    _passed[point] = _passed.get(point, 0) + 1
    count, sent = _armed[point]
    if _passed[point] == count:
        os.kill(os.getpid(), sent)

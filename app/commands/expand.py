"""`dialwatch topics expand`: print the plan, and with `--execute` carry it out."""

import asyncio
import os
import sys

from app.operations.expand import expand, plan
from app.settings import Settings, variable
from streams.engine import fault_points


def run_expand(settings: Settings, partitions: int, *, execute: bool) -> int:
    """Print the steps, a line each; with `execute` do them. Raises CommandError."""
    planned = asyncio.run(plan(settings, partitions))
    old, new, is_begun = planned.expansion
    if old == new and not planned.topics:
        print(f"all topics have {new} partitions: there is nothing to do", file=sys.stderr)
        return 0
    for name, count in planned.topics.items():
        print(f"{name}\t{count}\t{new}")
    _say("goes on where it was cut off" if is_begun else f"{planned.unread} records are unread")
    if not execute:
        if planned.members:
            _say(f"{planned.members} workers run: they and all publishers must be stopped")
        _say("nothing was done: with --execute it is")
        return 0
    fault_points.arm_as(os.environ)
    asyncio.run(expand(settings, partitions, _say))
    _say(
        f"done: set {variable('partitions')}={new}, start the workers, then the publishers "
        "(each must have learnt of the new partitions: start them anew)"
    )
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)

"""Runs: results in a row, of an account or of a line. Reached at a length, then from zero."""

from datetime import tzinfo

from msgspec import Struct

from streams.times import format_instant
from tables.explained import Explained, Sentence


class Run(Struct, array_like=True, gc=False):
    """A run that is going on. Persisted: append fields only, with defaults."""

    count: int = 0
    first_call_id: str = ""
    last: int = 0
    """Instant at which the last call of the run ended."""
    tick: int = 0
    """The clock's last tick when the run was counted on."""


def is_forgotten(run: Run, clock: int, retention: int) -> bool:
    """Has nothing been counted for so long, by the clock, that nobody will go on with it?

    By the clock at counting, not by the calls' own times: those of a backlog are old. What was
    counted before there was any tick is kept.
    """
    return run.count == 0 or (run.tick > 0 and clock - run.tick > retention)


def go_on(run: Run, clock: int, retention: int) -> None:
    """Let a run be counted on by a clock that has moved since, or forget it."""
    if is_forgotten(run, clock, retention):
        run.count = 0
    run.tick = clock


def end(run: Run) -> None:
    """End a run: any other result does."""
    run.count = 0


class RunReached(Struct, frozen=True):
    """So many in a row; their first and last call."""

    length: int
    first_call_id: str
    call_id: str


def fold(run: Run, call_id: str, ended: int, length: int, window: int) -> RunReached | None:
    """Count one call in a run; at `length` say so and start over.

    `ended` and `window` are in microseconds; a call that ended more than `window` after the one
    before it starts a new run. The run is changed in place: it is the caller's own copy, and a
    new object for each of a million calls would cost more than the rule.
    """
    if run.count and ended - run.last > window:
        run.count = 0
    if run.count == 0:
        run.first_call_id = call_id
    run.count += 1
    run.last = ended
    if run.count < length:
        return None
    reached = RunReached(run.count, run.first_call_id, call_id)
    run.count = 0
    return reached


def explain(run: Run, *, length: int, window: int, zone: tzinfo) -> Explained:
    """Say how far an account's run of calls that were not connected has come."""
    if run.count == 0:
        because = [
            Sentence(
                "目前没有连续未接通：最近一通不是未接通，或刚刚报过警。",
                "No run is going on: the last call was connected, or the run has just been told.",
            )
        ]
        return Explained(0, length, because)
    last, until = format_instant(run.last, zone), format_instant(run.last + window, zone)
    left = length - run.count
    because = [
        Sentence(
            f"已连续{run.count}通未接通（阈值{length}），最近一通结束于{last}，还差{left}通。",
            f"{run.count} of {length} calls in a row were not connected, the last ended at {last}: "
            f"{left} more are needed.",
        ),
        Sentence(
            f"结束时间晚于{until}的通话会重新开始计数。",
            f"A call that ends later than {until} begins a new run.",
        ),
    ]
    return Explained(run.count, length, because)

"""Lines: calls of a line are combined for each poll, then counted where the line lives."""

from msgspec import Struct

from streams.records import Channel
from tables import runs


class LineCall(Struct, array_like=True, gc=False):
    """A call that ended with a line error. Travels: append fields only, with defaults."""

    call_id: str
    account_id: str
    ended: int
    channels: list[Channel] | None = None
    """The account's own channels for line alerts, None: the default."""


class LineSegment(Struct, array_like=True):
    """What one poll of one partition says of a line: its errors in order, cut where another
    result came between. Travels: append fields only, with defaults."""

    line_id: str
    runs: list[list[LineCall]]
    """The first goes on with what the line had before; before each later one the run ended."""


class LineRun(Struct, array_like=True):
    """A line's run and who is in it. Persisted: append fields only, with defaults."""

    run: runs.Run
    accounts: dict[str, list[Channel] | None]


class LineReached(Struct, frozen=True):
    """A line failed so many times in a row; everyone with a call in it is to be told."""

    reached: runs.RunReached
    ended: int
    accounts: dict[str, list[Channel] | None]


def combine(segment: LineSegment, call: LineCall | None, *, length: int) -> None:
    """Add the next call of a line to its segment; None: one with another result."""
    if call is not None:
        segment.runs[-1].append(call)
    elif segment.runs[-1] or len(segment.runs) == 1:
        # A run between two other results that is too short to be reached says nothing.
        if len(segment.runs) > 1 and len(segment.runs[-1]) < length:
            segment.runs[-1] = []
        else:
            segment.runs.append([])


def fold(line: LineRun, segment: LineSegment, *, length: int, window: int) -> list[LineReached]:
    """Count a segment's calls; return each time the length was reached."""
    reached = []
    for number, calls in enumerate(segment.runs):
        if number:
            runs.fold(line.run, False, "", 0, length=length, window=window)
        for call in calls:
            result = runs.fold(
                line.run, True, call.call_id, call.ended, length=length, window=window
            )
            if line.run.count == 1:
                line.accounts = {}
            line.accounts[call.account_id] = call.channels
            if result is not None:
                reached.append(LineReached(result, call.ended, line.accounts))
                line.accounts = {}
    if line.run.count == 0:
        line.accounts = {}
    return reached

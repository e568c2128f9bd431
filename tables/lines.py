"""Lines: calls of a line are combined for each poll, then counted where the line lives."""

from msgspec import Struct, field

from streams.records import Channel
from tables import runs
from tables.explained import Explained, Sentence

LineCall = tuple[str, str, int, list[Channel] | None]
"""A call that ended with a line error: its id, its account's id, the instant it ended, and the
account's own channels for line alerts (None: the default), as they were when it was counted: the
line lives in another partition than the account. Travels: append fields only."""


class LineSegment(Struct, array_like=True):
    """What one poll of one partition says of a line: its errors in order, and None where one or
    more other results came between. Travels: append fields only, with defaults."""

    line_id: str
    calls: list[LineCall | None]
    partition: int = -1
    """Of `call-records`, that was polled."""
    offsets: list[int] = []
    """Of the errors there, one for each; none in a segment from before they were noted."""


class LineRun(Struct, array_like=True):
    """A line's run and who is in it. Persisted: append fields only, with defaults."""

    run: runs.Run = field(default_factory=runs.Run)
    accounts: dict[str, list[Channel] | None] = {}


class LineReached(Struct, frozen=True):
    """A line failed so many times in a row; everyone with a call in it is to be told."""

    reached: runs.RunReached
    ended: int
    accounts: dict[str, list[Channel] | None]
    offset: int | None = None
    """Of the last call, in the segment's partition of `call-records`; None: it isn't known."""


def fold(line: LineRun, segment: LineSegment, *, length: int, window: int) -> list[LineReached]:
    """Count a segment's calls; return each time the length was reached."""
    reached = []
    offsets = iter(segment.offsets)
    for call in segment.calls:
        if call is None:
            line.run.count, line.accounts = 0, {}
            continue
        call_id, account_id, ended, channels = call
        offset = next(offsets, None)
        result = runs.fold(line.run, call_id, ended, length, window)
        count = line.run.count if result is None else result.length
        if count == 1:  # a pause may have ended the run before
            line.accounts = {}
        line.accounts[account_id] = channels
        if result is not None:
            reached.append(LineReached(result, ended, line.accounts, offset))
            line.accounts = {}
    return reached


def explain(*, length: int) -> Explained:
    """Say where an account can see how far its lines are: each counts the calls of all accounts."""
    because = [
        Sentence(
            f"线路报错按线路统计，同一线路所有账户的通话合计，连续{length}通报错时通知其中每个账户；"
            "查看线路：dialwatch state line ID。",
            f"Errors are counted for each line, the calls of all accounts together; at {length} in "
            "a row each account with a call among them is told. A line: dialwatch state line ID.",
        )
    ]
    return Explained(None, length, because)

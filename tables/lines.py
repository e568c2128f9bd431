"""Lines: calls of a line are combined for each poll, then counted where the line lives."""

from msgspec import Struct, field

from streams.records import Channel
from tables import runs
from tables.explained import Explained, Sentence


class LineCall(Struct, array_like=True, gc=False):
    """A call that ended with a line error. Travels: four fields and no more for as long as a worker
    of 0.1.0 may read it, which takes no fifth; what is new goes beside the calls in the segment."""

    call_id: str
    account_id: str
    ended: int
    channels: list[Channel] | None = None
    """The account's own for line alerts (None: the default), as they were when the call was
    counted: the line lives in another partition than the account."""


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
    pages: int = 0
    """How many pages of further accounts there are, from before these."""


class LineAccounts(Struct, array_like=True):
    """A page of accounts of a line's run. Persisted: append fields only, with defaults."""

    accounts: dict[str, list[Channel] | None] = {}


class LineReached(Struct, frozen=True):
    """A line failed so many times in a row; everyone with a call in it is to be told."""

    reached: runs.RunReached
    ended: int
    accounts: dict[str, list[Channel] | None]
    offset: int | None = None
    """Of the last call, in the segment's partition of `call-records`; None: it isn't known."""
    pages: int = 0
    """How many pages of further accounts there are."""


def fold(line: LineRun, segment: LineSegment, *, length: int, window: int) -> list[LineReached]:
    """Count a segment's calls; return each time the length was reached.

    Where `line.pages` is 0 then and wasn't before, the pages are of a run that is over.
    """
    reached = []
    offsets = iter(segment.offsets)
    for call in segment.calls:
        if call is None:
            runs.end(line.run)
            line.accounts, line.pages = {}, 0
            continue
        offset = next(offsets, None)
        result = runs.fold(line.run, call.call_id, call.ended, length, window)
        count = line.run.count if result is None else result.length
        if count == 1:  # a pause may have ended the run before
            line.accounts, line.pages = {}, 0
        line.accounts[call.account_id] = call.channels
        if result is not None:
            reached.append(LineReached(result, call.ended, line.accounts, offset, line.pages))
            line.accounts, line.pages = {}, 0
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

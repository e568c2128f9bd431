"""The fold of line segments: a line's calls, from all partitions, counted in the line's own."""

import msgspec

from agents.rules import Rules
from agents.telling import cause_of, noticed, tell
from streams.engine.types import TP, Chunk
from streams.topics import Topics
from tables import line_accounts, lines, runs, texts
from tables.clocks import latest_tick
from tables.lines import LineRun, LineSegment
from tables.state_tables import LINES

_decode = msgspec.msgpack.Decoder(LineSegment).decode


class LinesAgent:
    """Folds the group's line segments."""

    def __init__(self, rules: Rules, topics: Topics) -> None:
        self._rules = rules
        self._topics = topics

    def fold(self, polled: Chunk) -> None:
        """Count the calls of each segment; tell the accounts of a run that is reached."""
        state, rules = polled.state, self._rules
        length, window = rules.run_length, rules.run_window
        clock = latest_tick(state)
        for record in polled.in_turn():
            segment = _decode(record.value or b"")
            key = record.key or b""
            if segment.calls == [None]:
                known = state.peek(LINES, key)
                if known is None or known.run.count == 0:
                    continue  # most lines, most of the time: there is nothing to remember
            line = state.get_or_put(LINES, key, LineRun)
            runs.go_on(line.run, clock, rules.run_retention)
            pages = line.pages
            for reached in lines.fold(line, segment, length=length, window=window):
                cause = (
                    ""
                    if reached.offset is None
                    else cause_of(TP(self._topics.calls, segment.partition), reached.offset)
                )
                told = line_accounts.all_of(state, key, reached.pages, reached.accounts)
                for account_id, chosen in told.items():
                    alert = texts.line_error_run(
                        account_id,
                        chosen,
                        segment.line_id,
                        reached.reached,
                        reached.ended,
                        rules.zone,
                    )
                    alert = noticed("line_error_run", alert)
                    tell(polled, self._topics, alert, None, cause=cause)
            if pages and not line.pages:
                line_accounts.forget_pages(state, key, pages)
            line_accounts.put_aside(state, key, line)

"""The calls agent: every finished call goes through all rules that look at calls.

This is the loop that a million calls go through. It reads, lets the rules of tables/ decide and
emits what they say; what it keeps by hand (the poll's tallies by key, a segment for each line)
it keeps for speed.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from agents import reminders
from agents.rules import Rules
from agents.telling import bury, noticed, tell
from streams.decoding import CallsParsed, valid_calls
from streams.engine.state import State
from streams.engine.types import Chunk, Output, Record
from streams.records import Call
from streams.topics import Topics
from tables import balances, batches, interests, runs, texts
from tables.accounts import batch_of, on_complete, page_of
from tables.batches import NEW, PAGE_BITS, REPEATED
from tables.clocks import clock_of
from tables.customers import chosen_channels, wishes
from tables.lines import LineCall, LineSegment
from tables.state_tables import CUSTOMERS, TALLIES
from tables.tallies import Tally

# Far below what a record may hold; ids have at most 512 bytes, so that few calls never come near.
_MOST_BYTES = 1 << 18
_FEW_CALLS = 100

OnCounted = Callable[[State, bytes, Call, int, int], None]
"""Gets each call that is neither invalid nor a repeat: the state, the key, the call, the instant it
ended, the latest tick."""

_encode_segment = msgspec.msgpack.Encoder().encode


class CallsAgent:
    """Folds `call-records`."""

    def __init__(self, rules: Rules, topics: Topics, on_counted: OnCounted | None = None) -> None:
        """`on_counted`: of who counts runs under other rules beside these."""
        self._rules = rules
        self._topics = topics
        self._on_counted = on_counted
        self._parsed = CallsParsed()

    def fold(self, polled: Chunk) -> None:
        """Fold one poll of one partition."""
        state, rules, topics, parsed = polled.state, self._rules, self._topics, self._parsed
        on_counted = self._on_counted
        length, window, retention = rules.run_length, rules.run_window, rules.batch_retention
        here, clock = polled.tp.partition, clock_of(state)
        tick, mark = clock
        keys = dict.fromkeys(record.key for record in polled.records if record.key is not None)
        known = state.get_many(TALLIES, keys)
        tallies: dict[bytes, Tally | None] = dict(zip(keys, known, strict=True))
        line_calls: dict[str, list[LineCall | None]] = {}
        failed_at: defaultdict[str, list[int]] = defaultdict(list)

        def on_invalid(record: Record, reason: str) -> None:
            bury(polled, topics, rules.zone, record, reason)

        for record, key, call, submitted, ended, balance in valid_calls(
            polled.records, parsed, on_invalid
        ):
            tally = tallies[key]
            if tally is None:
                tally = tallies[key] = Tally()
                state.put(TALLIES, key, tally)
            if tally.intent_classes is None:
                tally.intent_classes, tally.threshold = wishes(state.read(CUSTOMERS, key))
            batch = tally.batch
            if batch is None or tally.submitted != submitted or mark > batch.tick:
                size = call.batch_size
                batch = batch_of(state, key, tally, submitted, size, clock, retention)
            if batch.size != call.batch_size:
                reason = f"batch_size: {call.batch_size} is not {batch.size}, its batch's first"
                bury(polled, topics, rules.zone, record, reason)
                continue

            index = call.batch_index
            page = None if index < PAGE_BITS else page_of(state, key, submitted, batch, index)
            seen = batches.fold(batch, page, index, ended, mark)
            if seen is not NEW:
                if seen is REPEATED:
                    continue
                on_complete(state, key, submitted, batch)
                customer = state.peek(CUSTOMERS, key)
                done = texts.batch_completed(call, customer, submitted, ended, rules.zone)
                done = noticed("batch_completed", done)
                tell(polled, topics, done, here, cause=record.offset)

            if on_counted is not None:
                on_counted(state, key, call, ended, tick)
            result, run = call.result, tally.run
            if result != "F":
                if run.count:
                    runs.end(run)
            else:
                if tick > run.tick:
                    runs.go_on(run, tick, rules.run_retention)
                reached = runs.fold(run, call.call_id, ended, length, window)
                if reached is not None:
                    customer = state.peek(CUSTOMERS, key)
                    alert = texts.unreachable_run(
                        call.account_id, customer, reached, ended, rules.zone
                    )
                    tell(
                        polled, topics, noticed("unreachable_run", alert), here, cause=record.offset
                    )

            if balance is not None and balances.fold(tally.balance, balance, tally.threshold):
                low = reminders.on_fall(state, rules, key, tally.balance, ended)
                tell(polled, topics, low, here, cause=record.offset)

            calls = line_calls.get(call.line_id)
            if calls is None:
                calls = line_calls[call.line_id] = []
            if result == "W":
                chosen = chosen_channels(state.peek(CUSTOMERS, key), "line_error_run")
                calls.append(LineCall(call.call_id, call.account_id, ended, chosen))
                failed_at[call.line_id].append(record.offset)
                continue
            if not calls or calls[-1] is not None:
                calls.append(None)
            wanted = tally.intent_classes
            if wanted and result != "F" and interests.is_wanted(result, wanted):
                customer = state.peek(CUSTOMERS, key)
                found = texts.interested_customer(call, customer, ended, rules.zone)
                tell(
                    polled, topics, noticed("interested_customer", found), here, cause=record.offset
                )

        for line_id, calls in line_calls.items():
            for segment in segments(LineSegment(line_id, calls, here, failed_at[line_id])):
                polled.emit(Output(topics.line_segments, None, line_id.encode(), segment))


def segments(segment: LineSegment) -> Iterator[bytes]:
    """Yield what travels of a segment: as it is, or in parts that are not too long."""
    encoded = _encode_segment(segment)
    calls, offsets = segment.calls, segment.offsets
    if len(encoded) <= _MOST_BYTES or len(calls) <= _FEW_CALLS:
        yield encoded
        return
    half = len(calls) // 2
    first = half - calls[:half].count(None)
    yield from segments(replace(segment, calls=calls[:half], offsets=offsets[:first]))
    yield from segments(replace(segment, calls=calls[half:], offsets=offsets[first:]))

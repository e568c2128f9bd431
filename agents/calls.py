"""The calls agent: every finished call goes through all rules that look at calls.

This is the loop that a million calls go through. It reads, lets the rules of tables/ decide and
emits what they say; what it keeps by hand (the poll's tallies by key, a segment for each line)
it keeps for speed.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import islice

import msgspec

from agents import reminders
from agents.rules import Rules
from agents.telling import bury, tell
from streams.decoding import CallsParsed, valid_calls
from streams.engine.state import State
from streams.engine.types import Chunk, Output, Record
from streams.records import Call
from streams.topics import Topics
from tables import balances, batches, runs, texts
from tables.accounts import batch_of, on_complete, page_of
from tables.batches import NEW, PAGE_BITS, REPEATED
from tables.customers import chosen_channels, wishes
from tables.lines import LineCall
from tables.store import CLOCKS, CUSTOMERS, TALLIES
from tables.tallies import Tally

# Far below what a record may hold, however long the ids are that the dialer makes.
_MOST_IN_SEGMENT = 1_000

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
        here, clock = polled.tp.partition, latest_tick(state)
        keys = dict.fromkeys(record.key for record in polled.records if record.key is not None)
        known = state.get_many(TALLIES, keys)
        tallies: dict[bytes, Tally | None] = dict(zip(keys, known, strict=True))
        line_calls: dict[str, list[LineCall | None]] = {}
        failed_at: defaultdict[str, list[int]] = defaultdict(list)

        def on_invalid(record: Record, reason: str) -> None:
            bury(polled, topics, record, reason)

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
            if batch is None or tally.submitted != submitted or clock > batch.tick:
                size = call.batch_size
                batch = batch_of(state, key, tally, submitted, size, clock, retention)
            if batch.size != call.batch_size:
                reason = f"batch_size: {call.batch_size} is not {batch.size}, its batch's first"
                bury(polled, topics, record, reason)
                continue

            index = call.batch_index
            page = None if index < PAGE_BITS else page_of(state, key, submitted, batch, index)
            seen = batches.fold(batch, page, index, ended, clock)
            if seen is not NEW:
                if seen is REPEATED:
                    continue
                on_complete(state, key, submitted, batch)
                customer = state.peek(CUSTOMERS, key)
                done = texts.batch_completed(call, customer, submitted, ended, rules.zone)
                tell(polled, topics, done, here, cause=record.offset)

            if on_counted is not None:
                on_counted(state, key, call, ended, clock)
            result, run = call.result, tally.run
            if result != "F":
                run.count = 0
            else:
                if clock > run.tick:
                    if runs.is_forgotten(run, clock, rules.run_retention):
                        run.count = 0
                    run.tick = clock
                reached = runs.fold(run, call.call_id, ended, length, window)
                if reached is not None:
                    customer = state.peek(CUSTOMERS, key)
                    alert = texts.unreachable_run(
                        call.account_id, customer, reached, ended, rules.zone
                    )
                    tell(polled, topics, alert, here, cause=record.offset)

            if balance is not None and balances.fold(tally.balance, balance, tally.threshold):
                low = reminders.on_fall(state, rules, key, tally.balance, ended)
                tell(polled, topics, low, here, cause=record.offset)

            calls = line_calls.get(call.line_id)
            if calls is None:
                calls = line_calls[call.line_id] = []
            if result == "W":
                chosen = chosen_channels(state.peek(CUSTOMERS, key), "line_error_run")
                calls.append((call.call_id, call.account_id, ended, chosen))
                failed_at[call.line_id].append(record.offset)
                continue
            if not calls or calls[-1] is not None:
                calls.append(None)
            if result != "F" and result in tally.intent_classes:
                customer = state.peek(CUSTOMERS, key)
                found = texts.interested_customer(call, customer, ended, rules.zone)
                tell(polled, topics, found, here, cause=record.offset)

        for line_id, calls in line_calls.items():
            offsets = iter(failed_at.get(line_id, ()))
            for begin in range(0, len(calls), _MOST_IN_SEGMENT):
                some = calls[begin : begin + _MOST_IN_SEGMENT]
                theirs = list(islice(offsets, len(some) - some.count(None)))
                segment = _encode_segment((line_id, some, here, theirs))
                polled.emit(Output(topics.line_segments, None, line_id.encode(), segment))


def latest_tick(state: State) -> int:
    """Return the latest tick a partition has seen, 0: none."""
    clock = state.peek(CLOCKS, b"")
    return 0 if clock is None else clock.tick

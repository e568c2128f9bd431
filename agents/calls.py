"""The calls agent: every finished call goes through all rules that look at calls.

This is the loop that a million calls go through. It reads, lets the rules of tables/ decide and
emits what they say; what it keeps by hand (states by key, a segment for each line) it keeps for
speed. A batch's pages are kept here too, because only the agent knows the state.
"""

import msgspec

from agents import reminders
from agents.rules import Rules
from agents.telling import bury, tell
from streams.engine.state import State
from streams.engine.types import Batch as Polled
from streams.engine.types import Output
from streams.records import Channel, Instants, InvalidRecordError, decode_call
from streams.times import parse_money
from streams.topics import Topics
from tables import batches, runs, texts
from tables.batches import COMPLETING, REPEATED, Batch, Page
from tables.customers import chosen_channels
from tables.lines import LineCall, LineSegment
from tables.runs import Run
from tables.store import BATCHES, CLOCKS, CUSTOMERS, PAGES, RUNS

_encode_segment = msgspec.msgpack.Encoder().encode
_FEW_PAGES = 65_536


class CallsAgent:
    """Folds `call-records`."""

    def __init__(self, rules: Rules, topics: Topics) -> None:
        self._rules = rules
        self._topics = topics
        self._instants = Instants()

    def fold(self, polled: Polled) -> None:
        """Fold one poll of one partition."""
        state, rules, topics, instants = polled.state, self._rules, self._topics, self._instants
        length, window, retention = rules.run_length, rules.run_window, rules.batch_retention
        here = polled.tp.partition
        clock = latest_tick(state)
        live_runs, live_batches = state.live(RUNS), state.live(BATCHES)
        line_calls: dict[str, list[LineCall | None]] = {}
        line_channels: dict[bytes, list[Channel] | None] = {}

        for record in polled.records:
            try:
                key: bytes = record.key  # type: ignore[assignment]  # decode_call checks it
                call, submitted, ended = decode_call(key, record.value, instants)
                batch_key = key + batches.instant_key(submitted)
                batch = live_batches.get(batch_key) or state.get(BATCHES, batch_key)
                if batch is not None and batches.is_forgotten(batch, clock, retention):
                    forget_batch(state, batch_key, batch)
                    batch = None
                if batch is None:
                    batch = Batch(call.batch_size)
                    state.put(BATCHES, batch_key, batch)
                elif batch.size != call.batch_size:
                    raise InvalidRecordError(
                        f"batch_size: {call.batch_size} is not {batch.size}, its batch's first"
                    )
            except InvalidRecordError as error:
                bury(polled, topics, record, str(error))
                continue

            index = call.batch_index
            page = None if index < batches.PAGE_BITS else _page(state, batch_key, index)
            seen = batches.fold(batch, page, index, ended, clock)
            if seen is REPEATED:
                continue
            if seen is COMPLETING:
                forget_pages(state, batch_key, batch)
                customer = state.peek(CUSTOMERS, key)
                done = texts.batch_completed(call, customer, submitted, ended, rules.zone)
                tell(polled, topics, done, here)

            result = call.result
            is_counted = result == "F"
            run = live_runs.get(key) or state.get(RUNS, key)
            if run is None and is_counted:
                run = Run()
                state.put(RUNS, key, run)
            reached = None
            if run is not None:
                run.tick = clock
                reached = runs.fold(run, is_counted, call.call_id, ended, length, window)
            if reached is not None:
                customer = state.peek(CUSTOMERS, key)
                alert = texts.unreachable_run(call.account_id, customer, reached, ended, rules.zone)
                tell(polled, topics, alert, here)
            if result not in "FW":
                customer = state.peek(CUSTOMERS, key)
                if customer is not None and result in customer.intent_classes:
                    found = texts.interested_customer(call, customer, ended, rules.zone)
                    tell(polled, topics, found, here)
            if call.balance is not None:
                low = reminders.on_balance(
                    state, rules, key, call.account_id, parse_money(call.balance), ended
                )
                tell(polled, topics, low, here)

            calls = line_calls.get(call.line_id)
            if calls is None:
                calls = line_calls[call.line_id] = []
            if result == "W":
                if key not in line_channels:
                    customer = state.peek(CUSTOMERS, key)
                    line_channels[key] = chosen_channels(customer, "line_error_run")
                calls.append(LineCall(call.call_id, call.account_id, ended, line_channels[key]))
            elif not calls or calls[-1] is not None:
                calls.append(None)

        for line_id, calls in line_calls.items():
            segment = _encode_segment(LineSegment(line_id, calls))
            polled.emit(Output(topics.line_segments, None, line_id.encode(), segment))


def latest_tick(state: State) -> int:
    """Return the latest tick a partition has seen, 0: none."""
    clock = state.peek(CLOCKS, b"")
    return 0 if clock is None else clock.tick


def forget_batch(state: State, batch_key: bytes, batch: Batch) -> None:
    """Forget a batch whole."""
    forget_pages(state, batch_key, batch)
    state.delete(BATCHES, batch_key)


def forget_pages(state: State, batch_key: bytes, batch: Batch) -> None:
    """Forget the bits that aren't in the batch's own record."""
    if batch.size <= batches.PAGE_BITS:
        return
    if batches.page_count(batch) <= _FEW_PAGES:
        keys = [batches.page_key(batch_key, page) for page in range(1, batches.page_count(batch))]
    else:  # nobody has so many numbers: don't walk through what can't be there
        width = len(batch_key) + batches.PAGE_BYTES
        keys = [key for key in state.keys(PAGES) if len(key) == width and key.startswith(batch_key)]
    for key in keys:
        if state.peek(PAGES, key) is not None:
            state.delete(PAGES, key)


def _page(state: State, batch_key: bytes, index: int) -> Page:
    key = batches.page_key(batch_key, index // batches.PAGE_BITS)
    page = state.get(PAGES, key)
    if page is None:
        page = Page()
        state.put(PAGES, key, page)
    return page

"""What is remembered of one account: found, made, parked and forgotten.

The latest batch is in the account's tally, older ones are parked beside it. What a batch or a run
is and when it is over is said in their own modules.
"""

from msgspec.structs import replace

from streams.engine.state import State
from tables import batches, runs
from tables.balances import Balance
from tables.batches import Batch, Page, Parked, batch_key, page_key
from tables.customers import Customer, wishes
from tables.runs import Run
from tables.store import BATCHES, PAGES, PARKED, TALLIES
from tables.tallies import Tally

_FEW_PAGES = 65_536


def tally_of(state: State, key: bytes) -> Tally:
    """Return an account's tally, a new one where none is remembered."""
    return state.get_or_put(TALLIES, key, Tally)


def copy_wishes(state: State, key: bytes, customer: Customer) -> None:
    """Copy what calls are held against into an account's tally, where it has one that differs."""
    tally, wished = state.peek(TALLIES, key), wishes(customer)
    if tally is not None and (tally.intent_classes, tally.threshold) != wished:
        tally = tally_of(state, key)
        tally.intent_classes, tally.threshold = wished


def batch_of(
    state: State,
    key: bytes,
    tally: Tally,
    submitted: int,
    size: int,
    clock: int,
    retention: int,
) -> Batch:
    """Return the batch that a call of an account names, a new one (of `size`) where none is
    remembered. `clock`: the latest tick; `retention`: in microseconds."""
    if tally.batch is not None and tally.submitted == submitted:
        if batches.is_forgotten(tally.batch, clock, retention):
            _forget_pages(state, key, submitted, tally.batch)
            tally.batch = Batch(size)
        return tally.batch
    parked = state.get(BATCHES, batch_key(key, submitted))
    if parked is not None:
        if not batches.is_forgotten(parked, clock, retention):
            return parked
        _forget_parked(state, key, submitted)
    new = Batch(size)
    if tally.batch is not None and submitted < tally.submitted:
        _park(state, key, submitted, new)
        return new
    if tally.batch is not None:
        _park(state, key, tally.submitted, tally.batch)
    tally.submitted, tally.batch = submitted, new
    return new


def page_of(state: State, key: bytes, submitted: int, batch: Batch, index: int) -> Page | None:
    """Return the page of an index that isn't on the first one; None: all are marked."""
    if batch.seen == batch.size:
        return None
    full = page_key(key, submitted, index // batches.PAGE_BITS)
    return state.get_or_put(PAGES, full, Page)


def on_complete(state: State, key: bytes, submitted: int, batch: Batch) -> None:
    """Drop what a complete batch needs no more."""
    _forget_pages(state, key, submitted, batch)


def forget_tally(state: State, key: bytes) -> None:
    """Forget an account's run, balance and all its batches."""
    tally = state.get(TALLIES, key)
    if tally is not None:
        if tally.batch is not None:
            _forget_pages(state, key, tally.submitted, tally.batch)
        state.delete(TALLIES, key)
    for submitted in (state.get(PARKED, key) or Parked()).submitted.copy():
        _forget_parked(state, key, submitted)


def forget_what_is_over(
    state: State, key: bytes, clock: int, batch_retention: int, run_retention: int
) -> None:
    """Forget an account's batches and run that are over; its tally when nothing is left in it.

    The retentions are in microseconds.
    """
    parked = (state.peek(PARKED, key) or Parked()).submitted
    for submitted in parked.copy():
        batch = state.peek(BATCHES, batch_key(key, submitted))
        if batch is None or batches.is_forgotten(batch, clock, batch_retention):
            _forget_parked(state, key, submitted)
    tally = state.peek(TALLIES, key)
    if tally is None:
        return
    left = Tally(
        balance=tally.balance, intent_classes=tally.intent_classes, threshold=tally.threshold
    )
    if not runs.is_forgotten(tally.run, clock, run_retention):
        left.run = seen_by_a_tick(tally.run, clock)
    if tally.batch is not None:
        if batches.is_forgotten(tally.batch, clock, batch_retention):
            _forget_pages(state, key, tally.submitted, tally.batch)
        else:
            left.submitted, left.batch = tally.submitted, tally.batch
    is_empty = (left.run, left.batch, left.balance) == (Run(), None, Balance())
    if is_empty and state.peek(PARKED, key) is None:
        state.delete(TALLIES, key)
    elif left != tally:
        state.put(TALLIES, key, left)


def seen_by_a_tick(run: Run, clock: int) -> Run:
    """Return a run as it is remembered after a tick: one that was counted before there was any
    tick counts as counted on at the first, or it would never be forgotten."""
    return run if run.tick else replace(run, tick=clock)


def _park(state: State, key: bytes, submitted: int, batch: Batch) -> None:
    state.put(BATCHES, batch_key(key, submitted), batch)
    state.get_or_put(PARKED, key, Parked).submitted.append(submitted)


def _forget_parked(state: State, key: bytes, submitted: int) -> None:
    full = batch_key(key, submitted)
    batch = state.peek(BATCHES, full)
    if batch is not None:
        _forget_pages(state, key, submitted, batch)
        state.delete(BATCHES, full)
    parked = state.get(PARKED, key)
    if parked is not None and submitted in parked.submitted:
        parked.submitted.remove(submitted)
        if not parked.submitted:
            state.delete(PARKED, key)


def _forget_pages(state: State, key: bytes, submitted: int, batch: Batch) -> None:
    if batch.size <= batches.PAGE_BITS:
        return
    if batches.page_count(batch) <= _FEW_PAGES:
        pages = range(1, batches.page_count(batch))
        found = [page_key(key, submitted, page) for page in pages]
    else:  # nobody has so many numbers: don't walk through what can't be there
        first = page_key(key, submitted, 0)
        begin, width = batch_key(key, submitted), len(first)
        found = [
            full for full in state.keys(PAGES) if len(full) == width and full.startswith(begin)
        ]
    for full in found:
        if state.peek(PAGES, full) is not None:
            state.delete(PAGES, full)

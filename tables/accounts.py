"""What is remembered of one account: found, made, parked and forgotten.

The latest batch is in the account's tally, older ones are parked beside it. What a batch or a run
is and when it is over is said in their own modules. What only a walk through a table's keys would
find is gathered as `Remains`, so that one walk serves all that a fold forgets.
"""

from dataclasses import dataclass, field

from msgspec.structs import replace

from streams.engine.state import State
from tables import batches, recharges, runs
from tables.balances import Balance
from tables.batches import Batch, Clock, Page, Parked, batch_key, page_key
from tables.customers import Customer, wishes
from tables.recharges import Recharges
from tables.runs import Run
from tables.state_tables import BATCHES, MORE_RECHARGES, PAGES, PARKED, RECHARGES, TALLIES
from tables.tallies import Tally

_FEW_PAGES = 64


@dataclass
class Remains:
    """What is to be forgotten and nothing names: keys of accounts and of batches."""

    accounts: set[bytes] = field(default_factory=set)
    """All of whose parked batches are over."""
    batches: set[bytes] = field(default_factory=set)
    """All of whose further pages are over."""

    def forget(self, state: State) -> None:
        """Walk through the keys, if need be, and forget it."""
        if self.accounts:
            found = [key for key in state.keys(BATCHES) if batches.account_of(key) in self.accounts]
            for key in found:
                _forget_batch(state, key, self)
        if self.batches:
            pages = [key for key in state.keys(PAGES) if batches.batch_of_page(key) in self.batches]
            for key in pages:
                state.delete(PAGES, key)


def tally_of(state: State, key: bytes) -> Tally:
    """Return an account's tally, a new one where none is remembered."""
    return state.get_or_put(TALLIES, key, Tally)


def copy_wishes(state: State, key: bytes, customer: Customer) -> None:
    """Copy what calls are held against into an account's tally, where it has one that differs."""
    tally, wished = state.peek(TALLIES, key), wishes(customer)
    if tally is not None and (tally.intent_classes, tally.threshold) != wished:
        tally = tally_of(state, key)
        tally.intent_classes, tally.threshold = wished


def fold_recharge(state: State, key: bytes, recharge_id: str) -> bool:
    """Remember a recharge of an account, for good; is it new?"""
    digest = recharges.hash_of(recharge_id)
    first = state.peek(RECHARGES, key)
    if first is None or not recharges.is_full(first):
        return recharges.fold(state.get_or_put(RECHARGES, key, Recharges), digest)
    if recharges.has(first, digest):
        return False
    page = recharges.page_key(key, digest)
    return recharges.fold(state.get_or_put(MORE_RECHARGES, page, Recharges), digest)


def recharges_of(state: State, key: bytes) -> Recharges | None:
    """Return all recharges of an account, to look at; None: it had none."""
    first = state.peek(RECHARGES, key)
    if first is None or not recharges.is_full(first):
        return first
    pages = [state.read(MORE_RECHARGES, page) for page in recharges.page_keys(key)]
    return Recharges(first.hashes + b"".join(page.hashes for page in pages if page is not None))


def forget_recharges(state: State, key: bytes) -> None:
    """Forget an account's recharges."""
    first = state.peek(RECHARGES, key)
    if first is None:
        return
    for page in recharges.page_keys(key) if recharges.is_full(first) else ():
        if state.peek(MORE_RECHARGES, page) is not None:
            state.delete(MORE_RECHARGES, page)
    state.delete(RECHARGES, key)


def batch_of(
    state: State,
    key: bytes,
    tally: Tally,
    submitted: int,
    size: int,
    clock: Clock,
    retention: int,
) -> Batch:
    """Return the batch that a call of an account names, a new one (of `size`) where none is
    remembered. `retention`: in microseconds."""
    if tally.batch is not None and tally.submitted == submitted:
        if batches.is_forgotten(tally.batch, clock, retention):
            _forget_pages_now(state, batch_key(key, submitted), tally.batch)
            tally.batch = Batch(size)
        return tally.batch
    parked = state.get(BATCHES, batch_key(key, submitted))
    if parked is not None:
        if not batches.is_forgotten(parked, clock, retention):
            return parked
        _forget_parked(state, batch_key(key, submitted))
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
    _forget_pages_now(state, batch_key(key, submitted), batch)


def forget_tally(state: State, key: bytes, remains: Remains) -> None:
    """Forget an account's run, balance and all its batches."""
    tally = state.get(TALLIES, key)
    if tally is not None:
        if tally.batch is not None:
            _forget_pages(state, batch_key(key, tally.submitted), tally.batch, remains)
        state.delete(TALLIES, key)
    parked = state.get(PARKED, key)
    if parked is None:
        return
    for submitted in parked.submitted:
        _forget_batch(state, batch_key(key, submitted), remains)
    if parked.unlisted:
        remains.accounts.add(key)
    state.delete(PARKED, key)


def forget_what_is_over(
    state: State,
    key: bytes,
    clock: Clock,
    batch_retention: int,
    run_retention: int,
    remains: Remains,
) -> None:
    """Forget an account's latest batch and run that are over; its tally when nothing is left in
    it. The retentions are in microseconds."""
    tally = state.peek(TALLIES, key)
    if tally is None:
        return
    left = Tally(
        balance=tally.balance, intent_classes=tally.intent_classes, threshold=tally.threshold
    )
    if not runs.is_forgotten(tally.run, clock.tick, run_retention):
        left.run = seen_by_a_tick(tally.run, clock.tick)
    if tally.batch is not None:
        if batches.is_forgotten(tally.batch, clock, batch_retention):
            _forget_pages(state, batch_key(key, tally.submitted), tally.batch, remains)
        else:
            left.submitted, left.batch = tally.submitted, tally.batch
    is_empty = (left.run, left.batch, left.balance) == (Run(), None, Balance())
    if is_empty and state.peek(PARKED, key) is None:
        state.delete(TALLIES, key)
    elif left != tally:
        state.put(TALLIES, key, left)


def forget_batch_if_over(
    state: State, full: bytes, clock: Clock, retention: int, remains: Remains
) -> None:
    """Forget a parked batch, by its key, that is over. `retention`: in microseconds."""
    batch = state.read(BATCHES, full)
    if batch is not None and batches.is_forgotten(batch, clock, retention):
        _forget_batch(state, full, remains)
        _unlist(state, full)


def seen_by_a_tick(run: Run, clock: int) -> Run:
    """Return a run as it is remembered after a tick: one that was counted before there was any
    tick counts as counted on at the first, or it would never be forgotten."""
    return run if run.tick else replace(run, tick=clock)


def _park(state: State, key: bytes, submitted: int, batch: Batch) -> None:
    state.put(BATCHES, batch_key(key, submitted), batch)
    batches.list_parked(state.get_or_put(PARKED, key, Parked), submitted)


def _forget_parked(state: State, full: bytes) -> None:
    remains = Remains()
    _forget_batch(state, full, remains)
    remains.forget(state)
    _unlist(state, full)


def _unlist(state: State, full: bytes) -> None:
    key = batches.account_of(full)
    parked = state.get(PARKED, key)
    if parked is not None and batches.unlist_parked(parked, batches.submitted_of(full)):
        state.delete(PARKED, key)


def _forget_batch(state: State, full: bytes, remains: Remains) -> None:
    batch = state.peek(BATCHES, full)
    if batch is not None:
        _forget_pages(state, full, batch, remains)
        state.delete(BATCHES, full)


def _forget_pages_now(state: State, full: bytes, batch: Batch) -> None:
    remains = Remains()
    _forget_pages(state, full, batch, remains)
    remains.forget(state)


def _forget_pages(state: State, full: bytes, batch: Batch, remains: Remains) -> None:
    if batch.size <= batches.PAGE_BITS:
        return
    if batches.page_count(batch) > max(_FEW_PAGES, batch.seen):
        # It says that it has more numbers than anybody: don't look for pages that can't be there.
        remains.batches.add(full)
        return
    account, submitted = batches.account_of(full), batches.submitted_of(full)
    for number in range(1, batches.page_count(batch)):
        page = page_key(account, submitted, number)
        if state.peek(PAGES, page) is not None:
            state.delete(PAGES, page)

"""Low balances and expiries: at once where an event shows one, and daily when a tick passes.

A tick looks only at those accounts that may be due: an index worked out from the state, kept as
long as the state is built on.
"""

from collections import defaultdict

from agents.rules import Rules
from streams.engine.state import State
from streams.records import Notification
from streams.times import HOUR
from tables import balances, customers, texts
from tables.accounts import tally_of
from tables.balances import Balance
from tables.customers import Customer
from tables.store import CUSTOMERS, TALLIES
from tables.tallies import Tally

_INDEX = "reminders"


class _Index:
    """Accounts of one partition that a tick must look at. May hold too many, never too few."""

    def __init__(self, state: State, rules: Rules) -> None:
        self.low: set[bytes] = set()
        self._expiring: defaultdict[int, list[bytes]] = defaultdict(list)
        """Hour since 1970 → accounts whose expiry is to be told from an instant in it on. By the
        hour: a number for each of a million accounts would cost ten times the memory."""
        self._rules = rules
        for key in state.keys(CUSTOMERS):
            customer = state.read(CUSTOMERS, key)
            if customer is not None:
                self.note_balance(key, customer, state.read(TALLIES, key))
                self.note_expiry(key, self._begins(customer))

    def note(
        self, key: bytes, customer: Customer, before: Customer | None, tally: Tally | None
    ) -> None:
        """Look at an account anew, after its record came or changed."""
        self.note_balance(key, customer, tally)
        begins = self._begins(customer)
        if before is None or begins != self._begins(before):
            self.note_expiry(key, begins)

    def note_balance(self, key: bytes, customer: Customer, tally: Tally | None) -> None:
        """Note an account whose balance is low."""
        if tally is not None and balances.is_low(tally.balance, customer.threshold):
            self.low.add(key)

    def note_expiry(self, key: bytes, begins: int | None) -> None:
        """Note from which instant on an account's expiry is to be told."""
        if begins is not None:
            self._expiring[begins // HOUR].append(key)

    def take_expiring(self, tick: int) -> list[bytes]:
        """Forget and return the accounts to look at now: they may be gone, changed, or due later
        in this hour."""
        hours = [hour for hour in self._expiring if hour <= tick // HOUR]
        return sorted({key for hour in hours for key in self._expiring.pop(hour)})

    def _begins(self, customer: Customer) -> int | None:
        return customers.notice_begins(customer, self._rules.expiry_notice_days)


def _index(state: State, rules: Rules) -> _Index:
    index: _Index | None = state.derived.get(_INDEX)
    if index is None:
        index = state.derived[_INDEX] = _Index(state, rules)
    return index


def on_account(
    state: State, rules: Rules, key: bytes, customer: Customer, before: Customer | None
) -> None:
    """Note what an account's record says now. (Who has none any more is found so by the tick.)"""
    _index(state, rules).note(key, customer, before, state.peek(TALLIES, key))


def on_fall(
    state: State, rules: Rules, key: bytes, balance: Balance, at: int
) -> list[Notification]:
    """Tell that a balance fell below the customer's threshold, unless that day's was told."""
    _index(state, rules).low.add(key)
    customer = state.peek(CUSTOMERS, key)
    if customer is None or not balances.tell(balance, rules.local_day(at)):
        return []
    return texts.low_balance(key.decode(), customer, balance.latest or 0, at, rules.zone)


def on_tick(state: State, rules: Rules, tick: int) -> list[Notification]:
    """Tell what is due at this tick."""
    if not rules.is_reminding(tick):
        return []
    index, told = _index(state, rules), []
    day = rules.local_day(tick)
    for key in sorted(index.low):
        customer, tally = state.peek(CUSTOMERS, key), state.peek(TALLIES, key)
        if customer is None or not tally or not balances.is_low(tally.balance, customer.threshold):
            index.low.discard(key)
        elif day not in tally.balance.told_days:
            balance = tally_of(state, key).balance
            balances.tell(balance, day)
            latest = balance.latest or 0
            told += texts.low_balance(key.decode(), customer, latest, tick, rules.zone)
    for key in index.take_expiring(tick):
        customer = state.peek(CUSTOMERS, key)
        if customer is None:
            continue
        expires = customers.tell_expiry(customer, tick, rules.expiry_notice_days)
        if expires is not None:
            state.put(CUSTOMERS, key, customer)
            told += texts.account_expiring(key.decode(), customer, expires, tick, rules.zone)
            continue
        begins = customers.notice_begins(customer, rules.expiry_notice_days)
        if begins is not None and begins > tick:  # what is over, only a new record brings back
            index.note_expiry(key, begins)
    return told

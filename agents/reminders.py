"""Reminders of low balances and expiries: at once when an event shows one, and daily by ticks.

A tick looks only at those accounts that may be due: an index worked out from the state, kept as
long as the state is built on. Of those whose balance is low each is looked at once a day, by the
first tick at or after the reminder time that finds it so.
"""

from collections import defaultdict
from collections.abc import Iterator

from agents.metrics import SUPPRESSED
from agents.rules import Rules
from agents.telling import noticed
from streams.engine.state import State
from streams.records import Notification
from streams.times import HOUR
from tables import balances, customers, texts
from tables.accounts import tally_of
from tables.balances import Balance
from tables.clocks import latest_tick
from tables.customers import Customer
from tables.state_tables import CUSTOMERS, TALLIES
from tables.tallies import Tally

_INDEX = "reminders"


class _Index:
    """The accounts of one partition that a tick must check. May hold too many, never too few."""

    def __init__(self, state: State, rules: Rules) -> None:
        self.low: set[bytes] = set()
        self.day = 0
        """The local day of the last reminding tick."""
        self.not_looked_at: list[bytes] = []
        """Those of `low` that no tick has checked on that day."""
        self._expiring: defaultdict[int, list[bytes]] = defaultdict(list)
        """Hour since 1970 → accounts whose expiry is to be told from an instant in it on. By the
        hour: a number for each of a million accounts would cost ten times the memory."""
        self._expiring_now: list[bytes] = []
        self._rules = rules
        for key in state.keys(CUSTOMERS):
            customer = state.read(CUSTOMERS, key)
            if customer is not None:
                self.note_balance(key, customer, state.read(TALLIES, key))
                self.note_expiry(key, self._begins(customer))

    def note(
        self, key: bytes, customer: Customer, before: Customer | None, tally: Tally | None
    ) -> None:
        """Index an account again, after its record came or changed."""
        self.note_balance(key, customer, tally)
        begins = self._begins(customer)
        if before is None or begins != self._begins(before):
            self.note_expiry(key, begins)

    def note_balance(self, key: bytes, customer: Customer, tally: Tally | None) -> None:
        """Note an account whose balance is low."""
        if tally is not None and balances.is_low(tally.balance, customer.threshold):
            self.note_low(key)

    def note_low(self, key: bytes) -> None:
        """Note that an account's balance is low."""
        self.low.add(key)
        self.not_looked_at.append(key)

    def low_to_look_at(self, day: int) -> Iterator[bytes]:
        """Yield each account whose balance may be low and was not checked on this day."""
        if day != self.day:
            self.day, self.not_looked_at = day, sorted(self.low, reverse=True)
        while self.not_looked_at:
            yield self.not_looked_at.pop()

    def note_expiry(self, key: bytes, begins: int | None) -> None:
        """Note from which instant on an account's expiry is to be told."""
        if begins is not None:
            self._expiring[begins // HOUR].append(key)

    def take_expiring(self, tick: int) -> Iterator[bytes]:
        """Yield and remove the accounts to check now: they may be gone, changed, or due only later
        in this hour."""
        for hour in [hour for hour in self._expiring if hour <= tick // HOUR]:
            self._expiring_now += self._expiring.pop(hour)
        while self._expiring_now:
            yield self._expiring_now.pop()

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
    """Index what an account's record says now. (Ticks find out that one is gone.)"""
    _index(state, rules).note(key, customer, before, state.peek(TALLIES, key))


def on_fall(
    state: State, rules: Rules, key: bytes, balance: Balance, at: int
) -> list[Notification]:
    """Return the commands for a balance that fell below the threshold; none if told that day."""
    _index(state, rules).note_low(key)
    customer = state.peek(CUSTOMERS, key)
    if customer is None:
        return []
    if not balances.tell(balance, rules.local_day(at), rules.local_day(latest_tick(state))):
        SUPPRESSED.labels("low_balance", "told_today").inc()
        return []
    low = texts.low_balance(key.decode(), customer, balance.latest or 0, at, rules.zone)
    return noticed("low_balance", low)


def on_tick(state: State, rules: Rules, tick: int) -> Iterator[list[Notification]]:
    """Yield the commands that are due at this tick, account by account. A caller that stops early
    may go on with the same tick later."""
    if not rules.is_reminding(tick):
        return
    index, day = _index(state, rules), rules.local_day(tick)
    for key in index.low_to_look_at(day):
        customer, tally = state.peek(CUSTOMERS, key), state.peek(TALLIES, key)
        if customer is None or not tally or not balances.is_low(tally.balance, customer.threshold):
            index.low.discard(key)
        elif not balances.was_told(tally.balance, day):
            balance = tally_of(state, key).balance
            balances.tell(balance, day, day)
            low = texts.low_balance(key.decode(), customer, balance.latest or 0, tick, rules.zone)
            yield noticed("low_balance", low)
    for key in index.take_expiring(tick):
        customer = state.peek(CUSTOMERS, key)
        if customer is None:
            continue
        expires = customers.tell_expiry(customer, tick, rules.expiry_notice_days)
        if expires is not None:
            state.put(CUSTOMERS, key, customer)
            due = texts.account_expiring(key.decode(), customer, expires, tick, rules.zone)
            yield noticed("account_expiring", due)
            continue
        begins = customers.notice_begins(customer, rules.expiry_notice_days)
        if begins is not None and begins > tick:  # what is over, only a new record brings back
            index.note_expiry(key, begins)

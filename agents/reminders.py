"""Low balances and expiries: at once where an event shows one, and daily when a tick passes.

A tick looks only at those accounts that may be due: an index worked out from the state, kept as
long as the state is built on.
"""

from agents.rules import Rules
from streams.engine.state import State
from streams.records import Notification
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
        self.expiring: dict[bytes, int] = {}
        """Account → instant from which on its expiry is to be told."""
        self._rules = rules
        for key in list(state.keys(CUSTOMERS)):
            customer = state.peek(CUSTOMERS, key)
            if customer is not None:
                self.note(key, customer, state.peek(TALLIES, key))

    def note(self, key: bytes, customer: Customer | None, tally: Tally | None) -> None:
        """Look at an account anew, after it changed."""
        if customer is None:
            self.low.discard(key)
            self.expiring.pop(key, None)
            return
        if tally is not None and balances.is_low(tally.balance, customer.threshold):
            self.low.add(key)
        begins = customers.notice_begins(customer, self._rules.expiry_notice_days)
        if begins is None:
            self.expiring.pop(key, None)
        else:
            self.expiring[key] = begins


def _index(state: State, rules: Rules) -> _Index:
    index: _Index | None = state.derived.get(_INDEX)
    if index is None:
        index = state.derived[_INDEX] = _Index(state, rules)
    return index


def on_account(state: State, rules: Rules, key: bytes) -> None:
    """Note that an account's record changed or went."""
    _index(state, rules).note(key, state.peek(CUSTOMERS, key), state.peek(TALLIES, key))


def on_fall(
    state: State, rules: Rules, key: bytes, customer: Customer, balance: Balance, at: int
) -> list[Notification]:
    """Tell that a balance fell below the customer's threshold, unless that day's was told."""
    _index(state, rules).low.add(key)
    if not balances.tell(balance, rules.local_day(at)):
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
    for key in sorted(key for key, begins in index.expiring.items() if begins <= tick):
        customer = state.get(CUSTOMERS, key)
        if customer is not None:
            expires = customers.tell_expiry(customer, tick, rules.expiry_notice_days)
            if expires is not None:
                told += texts.account_expiring(key.decode(), customer, expires, tick, rules.zone)
        # Told or over: only a new record brings it back.
        del index.expiring[key]
    return told

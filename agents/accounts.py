"""The folds of an account's own records: its changes, its recharges, and the ticks of the clock."""

from agents import reminders
from agents.rules import Rules
from agents.sweep import sweep
from agents.telling import bury, noticed, readable, tell
from streams.decoding import decode_account, decode_recharge, decode_tick
from streams.engine.types import Chunk
from streams.times import parse_instant, parse_money
from streams.topics import Topics
from tables import balances, clocks, customers, texts
from tables.accounts import (
    Remains,
    copy_wishes,
    fold_recharge,
    forget_recharges,
    forget_tally,
    tally_of,
)
from tables.state_tables import CLOCKS, CUSTOMERS, PartitionClock


class AccountsAgent:
    """Folds `accounts`, `recharges` and `ticks`."""

    def __init__(self, rules: Rules, topics: Topics) -> None:
        self._rules = rules
        self._topics = topics

    def fold_accounts(self, polled: Chunk) -> None:
        """Remember what customers chose, forget who left."""
        state, remains = polled.state, Remains()
        clock = state.get(CLOCKS, b"") or PartitionClock()
        first = polled.records[0].offset
        if first + clock.accounts_base <= clock.accounts_offset:
            clock.accounts_base = clock.accounts_offset + 1 - first
        for record, account in readable(polled, self._topics, self._rules.zone, decode_account):
            key = record.key or b""
            if account is None:
                if state.peek(CUSTOMERS, key) is not None:
                    state.delete(CUSTOMERS, key)
                forget_recharges(state, key)
                forget_tally(state, key, remains)
            else:
                before = state.peek(CUSTOMERS, key)
                customer = customers.from_record(
                    account, record.offset + clock.accounts_base, before
                )
                state.put(CUSTOMERS, key, customer)
                copy_wishes(state, key, customer)
                reminders.on_account(state, self._rules, key, customer, before)
        remains.forget(state)
        clock.accounts_offset = polled.records[-1].offset + clock.accounts_base
        state.put(CLOCKS, b"", clock)

    def fold_recharges(self, polled: Chunk) -> None:
        """Tell customers that money arrived, and whose balance still is below the threshold."""
        state, rules = polled.state, self._rules
        for record, recharge in readable(polled, self._topics, self._rules.zone, decode_recharge):
            key = record.key or b""
            if not fold_recharge(state, key, recharge.recharge_id):
                continue
            at, balance = parse_instant(recharge.completed_at), parse_money(recharge.balance)
            customer = state.peek(CUSTOMERS, key)
            arrived = texts.recharge_received(
                recharge,
                customer,
                parse_money(recharge.amount),
                balance,
                at,
                rules.zone,
            )
            arrived = noticed("recharge_received", arrived)
            tell(polled, self._topics, arrived, polled.tp.partition, cause=record.offset)
            known_balance = tally_of(state, key).balance
            threshold = None if customer is None else customer.threshold
            if balances.fold(known_balance, balance, threshold):
                low = reminders.on_fall(state, rules, key, known_balance, at)
                tell(polled, self._topics, low, polled.tp.partition, cause=record.offset)

    def fold_ticks(self, polled: Chunk) -> None:
        """Advance the partition's clock: send reminders that are due, forget what is over."""
        state = polled.state
        for record, tick in readable(polled, self._topics, self._rules.zone, decode_tick):
            if clocks.is_ahead(tick, record.timestamp):
                reason = "at: is more than 24 hours after the record's own timestamp"
                bury(polled, self._topics, self._rules.zone, record, reason)
                continue
            passed = clocks.fold(state, tick, record.timestamp)
            if passed is None:
                continue
            sweep(state, self._rules, passed)
            for due in reminders.on_tick(state, self._rules, tick):
                tell(polled, self._topics, due, polled.tp.partition, cause=record.offset)
                if polled.room() <= 0:
                    polled.leave(record)  # calls that came after it wait
                    return

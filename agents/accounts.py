"""The accounts agent: customers come, change and go; recharges arrive; time passes."""

from typing import Any

from msgspec.structs import replace

from agents import reminders
from agents.rules import Rules
from agents.telling import readable, tell
from streams.decoding import decode_account, decode_recharge, decode_tick
from streams.engine.state import State, Table
from streams.engine.types import Chunk
from streams.times import HOUR, parse_instant, parse_money
from streams.topics import Topics
from tables import balances, customers, recharges, runs, texts
from tables.accounts import copy_wishes, forget_tally, forget_what_is_over, seen_by_a_tick, tally_of
from tables.recharges import Recharges
from tables.store import CLOCKS, CUSTOMERS, LINES, RECHARGES, TALLIES, Clock

_SWEEP = "sweep"
_SWEEP_KEYS = 5_000


class AccountsAgent:
    """Folds `accounts`, `recharges` and `ticks`."""

    def __init__(self, rules: Rules, topics: Topics) -> None:
        self._rules = rules
        self._topics = topics

    def fold_accounts(self, polled: Chunk) -> None:
        """Remember what customers chose, forget who left."""
        state = polled.state
        clock = state.get(CLOCKS, b"") or Clock()
        first = polled.records[0].offset
        if first + clock.accounts_base <= clock.accounts_offset:
            clock.accounts_base = clock.accounts_offset + 1 - first
        for record, account in readable(polled, self._topics, decode_account):
            key = record.key or b""
            if account is None:
                _forget_account(state, key)
            else:
                before = state.peek(CUSTOMERS, key)
                customer = customers.from_record(
                    account, record.offset + clock.accounts_base, before
                )
                state.put(CUSTOMERS, key, customer)
                copy_wishes(state, key, customer)
                reminders.on_account(state, self._rules, key, customer, before)
        clock.accounts_offset = polled.records[-1].offset + clock.accounts_base
        state.put(CLOCKS, b"", clock)

    def fold_recharges(self, polled: Chunk) -> None:
        """Tell whose money arrived, and whose balance still is low."""
        state, rules = polled.state, self._rules
        for record, recharge in readable(polled, self._topics, decode_recharge):
            key = record.key or b""
            known = state.get_or_put(RECHARGES, key, Recharges)
            if not recharges.fold(known, recharge.recharge_id):
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
            tell(polled, self._topics, arrived, polled.tp.partition, cause=record.offset)
            known_balance = tally_of(state, key).balance
            threshold = None if customer is None else customer.threshold
            if balances.fold(known_balance, balance, threshold):
                low = reminders.on_fall(state, rules, key, known_balance, at)
                tell(polled, self._topics, low, polled.tp.partition, cause=record.offset)

    def fold_ticks(self, polled: Chunk) -> None:
        """Let time pass: remind, and forget what is over."""
        state = polled.state
        for record, tick in readable(polled, self._topics, decode_tick):
            clock = state.get(CLOCKS, b"") or Clock()
            if tick < clock.tick:
                continue
            passed, clock.tick = tick - clock.tick, tick
            state.put(CLOCKS, b"", clock)
            due = reminders.on_tick(state, self._rules, tick)
            tell(polled, self._topics, due, polled.tp.partition, cause=record.offset)
            _sweep(state, self._rules, tick, passed)


def _forget_account(state: State, key: bytes) -> None:
    forget_tally(state, key)
    everything_else: tuple[Table[Any], ...] = (CUSTOMERS, RECHARGES)
    for table in everything_else:
        if state.peek(table, key) is not None:
            state.delete(table, key)


def _sweep(state: State, rules: Rules, tick: int, passed: int) -> None:
    """Forget what a tick finds to be over: some thousand keys a tick.

    Nothing depends on when: a batch that is over counts as forgotten whether it was swept or
    not, and so does a run.
    """
    waiting: list[tuple[Table[Any], bytes]] = state.derived.get(_SWEEP, [])
    if not waiting:
        swept: tuple[Table[Any], ...] = (TALLIES, LINES)
        waiting = [(table, key) for table in swept for key in state.keys(table)]
        state.derived[_SWEEP] = waiting
    most = max(_SWEEP_KEYS, len(waiting) * passed // HOUR)
    for _ in range(min(most, len(waiting))):
        table, key = waiting.pop()
        if table is TALLIES:
            forget_what_is_over(state, key, tick, rules.batch_retention, rules.run_retention)
        else:
            line = state.peek(LINES, key)
            if line is None:
                continue
            if runs.is_forgotten(line.run, tick, rules.run_retention):
                state.delete(LINES, key)
            elif not line.run.tick:
                state.put(LINES, key, replace(line, run=seen_by_a_tick(line.run, tick)))

"""What the state holds of one account or line, put together for people. Changes nothing.

What is over by the clock is left out, deleted yet or not, as the rules do.
"""

from dataclasses import dataclass
from struct import Struct as Packer

from streams.engine.state import State
from tables import batches, line_accounts, runs
from tables.accounts import recharges_of
from tables.balances import Balance
from tables.batches import BatchView, Page, batch_key, page_key
from tables.clocks import clock_of, latest_tick
from tables.customers import Customer
from tables.lines import LineRun
from tables.recharges import Recharges
from tables.runs import Run
from tables.state_tables import BATCHES, CUSTOMERS, LINES, PAGES, TALLIES, owner_of

_unpack_instant = Packer(">q").unpack


@dataclass(frozen=True)
class Remembered:
    """What the state holds of one account."""

    tick: int
    """The latest tick of its partition, 0: none."""
    customer: Customer | None
    run: Run
    batches: list[BatchView]
    """Oldest first."""
    balance: Balance
    recharges: Recharges | None

    @property
    def is_nothing(self) -> bool:
        """Is nothing known of this account?"""
        return (
            self.customer is None
            and not self.run.count
            and not self.batches
            and self.balance == Balance()
            and self.recharges is None
        )


def belongs_to(full: bytes, key: bytes) -> bool:
    """Is a key of the changelog, with its prefix, of this account or line, or the clock's?"""
    return len(full) == 1 or owner_of(full[:1], full[1:]) == key


def remembered_of(
    state: State, key: bytes, *, batch_retention: int, run_retention: int
) -> Remembered:
    """Return what a state holds of an account. The retentions are in microseconds."""
    clock = clock_of(state)
    tally = state.peek(TALLIES, key)
    found = {} if tally is None or tally.batch is None else {tally.submitted: tally.batch}
    width = len(batch_key(key, 0))
    for full in state.keys(BATCHES):
        batch = state.peek(BATCHES, full)
        if len(full) == width and full.startswith(key) and batch is not None:
            found[_unpack_instant(full[len(key) :])[0]] = batch
    views = []
    for submitted, batch in sorted(found.items()):
        if not batches.is_forgotten(batch, clock, batch_retention):

            def page_of(page: int, submitted: int = submitted) -> Page | None:
                return state.peek(PAGES, page_key(key, submitted, page))

            views.append(BatchView(submitted, batch, batches.missing(batch, page_of)))
    run = Run() if tally is None else tally.run
    return Remembered(
        tick=clock.tick,
        customer=state.peek(CUSTOMERS, key),
        run=Run() if runs.is_forgotten(run, clock.tick, run_retention) else run,
        batches=views,
        balance=Balance() if tally is None else tally.balance,
        recharges=recharges_of(state, key),
    )


def line_of(state: State, key: bytes, *, run_retention: int) -> LineRun | None:
    """Return what a state holds of a line, with a run that is over left out; None: nothing."""
    line = state.peek(LINES, key)
    if line is None:
        return None
    over = runs.is_forgotten(line.run, latest_tick(state), run_retention)
    if over:
        return LineRun()
    return LineRun(line.run, line_accounts.all_of(state, key, line.pages, line.accounts))

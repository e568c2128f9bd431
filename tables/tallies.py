"""Tallies: what one account's calls have come to, as one value that is written at once."""

from msgspec import Struct, field

from tables.balances import Balance
from tables.batches import Batch
from tables.runs import Run


class Tally(Struct, array_like=True, gc=False):
    """An account's run, latest batch and balance. Persisted: append fields only, with defaults.

    Nearly every call changes all three: one record for each account in each cycle, not three.
    Older batches have records of their own (`tables/state_tables.py`). What every call is compared
    with is copied from the customer; else each would look up and decode a second value.
    """

    run: Run = field(default_factory=Run)
    submitted: int = 0
    """Names the batch."""
    batch: Batch | None = None
    balance: Balance = field(default_factory=Balance)
    intent_classes: str | None = None
    """A copy of the customer's; None: not copied yet."""
    threshold: int | None = None
    """A copy of the customer's, made together with the classes."""

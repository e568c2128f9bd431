"""Tallies: what one account's calls have come to, as one value that is written at once."""

from msgspec import Struct

from tables.batches import Batch
from tables.runs import Run


class Tally(Struct, array_like=True):
    """An account's run and its latest batch. Persisted: append fields only, with defaults.

    Nearly every call belongs to the latest batch: having it here saves a second record for each
    account in each poll. Older batches have records of their own (`tables/store.py`).
    """

    run: Run
    submitted: int = 0
    """Names the batch."""
    batch: Batch | None = None

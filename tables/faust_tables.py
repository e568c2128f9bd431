"""The tables as Faust declares them: `app.tables` lists them, with what they hold and for how long.

The only module here that knows Faust. The rules change the same tables by a chunk's state; what
these show is committed, and nobody writes them (see `streams/engine/table_views.py`).
"""

from datetime import timedelta
from typing import Any

import faust
from faust.types.windows import WindowT
from faust.windows import SlidingWindow

from streams.engine.engine import Engine
from streams.engine.outbox import UNFINISHED
from streams.engine.positions import POSITIONS
from streams.engine.state import Table
from streams.topics import Topics
from tables.state_tables import (
    ANNOUNCED,
    BATCHES,
    CLOCKS,
    CUSTOMERS,
    LINE_ACCOUNTS,
    LINES,
    MORE_RECHARGES,
    PAGES,
    PARKED,
    RECHARGES,
    TALLIES,
)


def declare_tables(
    app: faust.App,
    engine: Engine,
    topics: Topics,
    *,
    run_window: int,
    run_retention: int,
    batch_retention: int,
) -> None:
    """Declare every table of the engine's states. The times are in microseconds.

    A window reaches back from a call: `before` says which earlier ones still count with it, and
    `expires` for how long after the last one anything is remembered.
    """
    runs = _back(run_window, run_retention)
    batches = _back(batch_retention, batch_retention)
    declared: dict[str, tuple[Table[Any], WindowT | None, str]] = {
        "accounts": (CUSTOMERS, None, "What each account's customer chose."),
        "tallies": (TALLIES, runs, "Each account's run, latest batch and balance."),
        "batches": (BATCHES, batches, "Each account's earlier batches."),
        "batches-listed": (PARKED, batches, "Which earlier batches an account has."),
        "batch-pages": (PAGES, batches, "Which indexes of large batches have a record."),
        "lines": (LINES, runs, "Each line's run of errors, and the accounts in it."),
        "line-accounts": (LINE_ACCOUNTS, runs, "The accounts in a run that has many."),
        "recharges": (RECHARGES, None, "Which recharges an account has had, for good."),
        "more-recharges": (MORE_RECHARGES, None, "The same, of accounts with very many."),
        "announcements": (ANNOUNCED, None, "Which announcements a partition was told."),
        "clocks": (CLOCKS, None, "How far each partition's time has come."),
        "positions": (POSITIONS, None, "How far each source is folded: the engine's own."),
        "unfinished": (UNFINISHED, None, "What is being sent just now: the engine's own."),
    }
    for name, (kind, window, purpose) in declared.items():
        app.Table(
            name,
            kind=kind,
            states=lambda: engine.states,
            changelog=topics.changelog,
            window=window,
            partitions=topics.partitions,
            help=purpose,
        )


def _back(before: int, expires: int) -> WindowT:
    return SlidingWindow(
        timedelta(microseconds=before), timedelta(0), timedelta(microseconds=expires)
    )

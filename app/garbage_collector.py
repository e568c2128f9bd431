"""Tuning Python's garbage collector for commands that fold many records."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def tune_memory() -> None:
    """Collect garbage seldom: records and values make hardly any reference cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)


@contextmanager
def tuning_undone() -> Iterator[None]:
    """Undo `tune_memory` at the end, for a process that goes on with work of its own."""
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not frozen:
            gc.unfreeze()

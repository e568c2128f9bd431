"""Tuning Python's garbage collector for commands that fold many records."""

import gc


def tune_memory() -> None:
    """Collect garbage seldom: records and values make hardly any reference cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)

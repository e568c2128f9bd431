"""The garbage collector, for commands that fold many records."""

import gc


def tune_memory() -> None:
    """Look for garbage seldom: hardly any records and values go in circles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)

"""A worker that is told to end while it still loads: it has begun nothing, and that is no failure.

Imported before what takes long to load. The first process of a container wouldn't even hear the
signal: without a handler Linux keeps it from that one.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)


if next((word for word in sys.argv[1:] if not word.startswith("-")), "") == "worker":
    # Until the worker, which finishes what it has begun, puts its own in their place.
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, _end)

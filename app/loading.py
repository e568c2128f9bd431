"""Ends a worker with exit code 0 if a signal comes while it still loads: it has begun nothing.

Imported before the modules that take long to load. Without a handler the first process of a
container wouldn't even get the signal from Linux.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)


if next((word for word in sys.argv[1:] if not word.startswith("-")), "") == "worker":
    # Later the worker replaces these handlers by its own, which finish what it has begun.
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, _end)

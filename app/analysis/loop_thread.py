"""An event loop in a thread of its own, for code that waits although its own thread runs a loop.

Cells of a notebook run in one: `asyncio.run` refuses to work there.
"""

import asyncio
import concurrent.futures
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# What ends by itself has ended long before; the thread holds up no end of the process.
_CLOSE_SECONDS = 10.0
# After polars has been imported, its handler lets Ctrl-C interrupt no wait that has no end.
INTERRUPTED_WITHIN_SECONDS = 0.2


class LoopThread:
    """Runs coroutines for callers in other threads, which block. Goes on between the calls."""

    def __init__(self, name: str) -> None:
        started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name=name, daemon=True)
        self._thread.start()
        self._loop = started.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the result of `work`. It is cancelled where the caller is interrupted, as by
        Ctrl-C."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not future.done():
                concurrent.futures.wait([future], INTERRUPTED_WITHIN_SECONDS)
            return future.result()
        finally:
            future.cancel()  # does nothing to what has ended

    def close(self) -> None:
        """Cancel what still runs, and end the loop and its thread."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_CLOSE_SECONDS)

    def _serve(self, started: "concurrent.futures.Future[asyncio.AbstractEventLoop]") -> None:
        # Signals are for the main thread, which may be waiting for this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

        async def serve() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._end.wait()

        asyncio.run(serve())

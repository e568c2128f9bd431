"""A worker as a process of its own whose long constants are short.

    python -m tests.months.short worker

A constant that isn't there any more ends it: a round that shortens nothing would prove nothing.
"""

import importlib
import sys
from functools import partial
from pathlib import Path

from app import cli
from app.local.worker import WorkerProcess

MAX_POLL_SECONDS = 10.0
ENGINE = {"max_poll_interval_s": MAX_POLL_SECONDS, "tidy_every_s": 1.0}

CONSTANTS = {
    "app.ledger:KEPT_SECONDS": 120,
    "app.channels.wechat.receipts:_RECEIPT_SECONDS": 120,
    "app.channels.wechat.subscriptions:REFUSAL_SECONDS": 20,
    "app.web.view:STUCK_SECONDS": MAX_POLL_SECONDS,
}


class ShortWorker(WorkerProcess):
    """`WorkerProcess` with these constants; with `PYTHONPATH` in `launch` another tree's worker."""

    release: Path | None = None
    """The tree of an older release that it runs; its constants are as they were."""

    def command(self) -> list[str]:
        if self.release is not None:
            return super().command()
        return [sys.executable, "-m", "tests.months.short", "worker"]


def shorten() -> None:
    """Set the constants in this process."""
    for place, value in CONSTANTS.items():
        module_name, _, name = place.partition(":")
        module = importlib.import_module(module_name)
        if not hasattr(module, name):
            raise SystemExit(
                f"{place} is gone: tests/months/short.py must name what took its place"
            )
        setattr(module, name, value)
    main = importlib.import_module("app.main")
    main.EngineConfig = partial(main.EngineConfig, **ENGINE)  # type: ignore[attr-defined]


if __name__ == "__main__":
    shorten()
    cli.main()

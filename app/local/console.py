"""A console as a child process, for the demo and the tests: to start, stop and kill."""

import sys
from collections.abc import Mapping
from pathlib import Path

from app.local.worker import WorkerProcess


class ConsoleProcess(WorkerProcess):
    """`dialwatch console` with its own directory and port."""

    name = "Console"

    def __init__(self, directory: Path, environment: Mapping[str, str], port: int = 0) -> None:
        """See `WorkerProcess`."""
        super().__init__(directory, environment, port)
        self.environment = (self.environment or {}) | {
            "DIALWATCH_CONSOLE_DATADIR": str(self.directory / "index"),
            **environment,
            "DIALWATCH_CONSOLE_PORT": str(self.port),
        }

    def command(self) -> list[str]:
        return [sys.executable, "-m", "app.cli", "console"]

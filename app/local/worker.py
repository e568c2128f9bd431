"""A worker as a child process, for the demo and the tests: to start, stop, kill and freeze."""

import http.client
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.local.service import HOST, Service
from app.settings import PREFIX


class WorkerProcess(Service):
    """`dialwatch worker` with its own directory and web port. It serves when it is ready."""

    name = "Worker"
    stop_seconds = 30.0
    look_seconds = 5.0
    """How long a look at it may take: it may be frozen."""

    def __init__(self, directory: Path, environment: Mapping[str, str], port: int = 0) -> None:
        """`environment`: all settings, by variable. This program's own environment and `.env` don't
        count."""
        super().__init__(directory, port)
        own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self.environment = own | {
            "DIALWATCH_DATADIR": str(self.directory / "data"),
            **environment,
            "DIALWATCH_WEB_PORT": str(self.port),
        }

    @property
    def url(self) -> str:
        """The URL of its web server."""
        return f"http://{HOST}:{self.port}"

    def launch(self, **variables: str) -> None:
        """Start and return at once; `variables`: further settings for this start only."""
        self._bury()
        self.directory.mkdir(parents=True, exist_ok=True)
        usual = self.environment
        self.environment = (usual or {}) | variables
        try:
            self._spawn(self.command())
        finally:
            self.environment = usual

    def terminate(self) -> None:
        """Send SIGTERM; see `wait_exit`."""
        self._signal(signal.SIGTERM)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "app.cli", "worker"]

    def is_serving(self) -> bool:
        """Are its partitions assigned and restored?"""
        return self.get("/ready", self.look_seconds)[0] == 200

    def get(self, path: str, within_s: float = 30.0) -> tuple[int, str]:
        """Return the status and body of one request. Raises OSError when nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=within_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from None
        finally:
            connection.close()

    def partitions(self) -> dict[str, Any]:
        """Return its partitions by topic, as its web server tells them."""
        found: dict[str, Any] = json.loads(self.get("/ready", self.look_seconds)[1])["partitions"]
        return found

    def wait_exit(self, within_s: float = 120.0) -> int:
        """Return the exit code once it has ended. Raises subprocess.TimeoutExpired."""
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process.wait(within_s)

"""A server as a child process: start it and wait until it serves; stop, kill, freeze, restart it.

Knows nothing of Kafka or Valkey. A child never outlives this program, however that ends.
"""

import os
import random
import re
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from pathlib import Path

from app.local.errors import LocalStackError, check_disk

HOST = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections (32768 on Linux, 49152
# on macOS), so that no client takes the port of a server that is being restarted.
PORTS = range(20_000, 30_000)
POLL_SECONDS = 0.05

_given: deque[int] = deque(maxlen=1_000)
"""The ports that this program was given last: not all of them are listened at yet."""

# Kills the child when this program ends: then its end of the pipe is closed, and `read` returns.
# Children are in sessions of their own, so that Ctrl-C reaches this program only, which stops them
# in order. PR_SET_PDEATHSIG exists on Linux only, and fires when the *thread* ends that started the
# child.
WATCHDOG = 'read -r _; kill -9 "$1"'


class Service(ABC):
    """One server process on one port of the loopback address, with its data in one directory."""

    name: str
    start_seconds = 60.0
    stop_seconds = 15.0
    needed_bytes = 100_000_000
    environment: dict[str, str] | None = None
    """The process's environment; None: this program's own."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        """`port` 0: any free port, which stays the same for the life of this object."""
        self.directory = directory.absolute()
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command to run. Called at each start, when `directory` exists."""

    @abstractmethod
    def is_serving(self) -> bool:
        """Would a client that connects now be served? May raise OSError."""

    @property
    def log(self) -> Path:
        """The server's log file, of all its starts."""
        return self.directory / f"{self.name.lower()}.log"

    @property
    def pid(self) -> int | None:
        """The process id; None: it doesn't run. A frozen process runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start on the same port and data as before; return when it serves.

        Raises LocalStackError when it doesn't.
        """
        if self.pid is not None:
            return
        self._bury()
        check_disk(self.directory, self.needed_bytes)
        check_port(self.name, self.port)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._spawn(self.command())
        except OSError as error:
            raise LocalStackError(
                f"{self.name} cannot start in {self.directory}: {error.strerror or error}"
            ) from None
        try:
            self._wait_until_serving()
        except BaseException:
            self.kill()
            raise

    def check(self) -> None:
        """Raises LocalStackError when it isn't running."""
        if self.pid is None:
            raise LocalStackError(f"{self.name} has ended: {self.last_words()}")

    def stop(self) -> None:
        """Ask it to end; kill it when that takes too long."""
        if self.pid is not None and self._process:
            self.resume()
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self.stop_seconds)
        self.kill()

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash of the machine would."""
        if self.pid is not None and self._process:
            self._process.kill()
            self._process.wait()
        self._bury()

    def pause(self) -> None:
        """Freeze it: its connections stay open, but it doesn't answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a freeze."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None and self._process:
            self._process.send_signal(number)

    def _spawn(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _bury(self) -> None:
        """End the watchdog of a process that has ended, before another process gets its id."""
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin:
                self._watchdog.stdin.close()
        self._process = self._watchdog = None

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while True:
            if self.pid is None:
                raise LocalStackError(f"{self.name} ended at once: {self.last_words()}")
            with suppress(OSError):
                if self.is_serving():
                    return
            if time.monotonic() > deadline:
                raise LocalStackError(
                    f"{self.name} doesn't answer after {self.start_seconds:.0f} s: "
                    f"{self.last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        """Return the last line of the log that is about an error, else the last line."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")[-200:]
        said = [line.strip() for line in lines if line.strip()]
        errors = [line for line in said if re.search("ERROR|FATAL|rror:", line)]
        return f"{(errors or said or ['it said nothing'])[-1][:300]} (log: {self.log})"


def connect(port: int) -> socket.socket:
    """Return a connection to a local server. Gives up after a second."""
    connection = socket.create_connection((HOST, port), timeout=1.0)
    connection.settimeout(1.0)
    return connection


def free_port() -> int:
    """Return a port that is free now, and another one each time. Another process may take it
    before the server starts."""
    ports = random.Random(f"{os.getpid()} {time.monotonic_ns()}")
    while (port := ports.choice(PORTS)) in _given or not is_free(port):
        pass
    _given.append(port)
    return port


def is_free(port: int) -> bool:
    """Could a server listen on the port now?"""
    with socket.socket() as probe:
        # Servers set this too: lingering connections of a predecessor are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def check_port(name: str, port: int) -> None:
    """Raises LocalStackError when the port is taken."""
    if not is_free(port):
        raise LocalStackError(
            f"port {port} for {name} is taken (or not allowed): end what listens there, "
            "or choose another port, 0 for any free one"
        )

"""A Maven repository on the loopback address, for what must not depend on the network.

It is found as a mirror is, by jgo's own settings: everything but the repository is the real thing.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Repository:
    """Serves jars by file name, counts what was asked for, and can misbehave."""

    def __init__(self) -> None:
        self.jars: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut_short = 0
        """So many next answers end in the middle."""
        self.busy_s = 0.0
        """From the first question on it is too busy for an answer for so long."""
        self.busy_until: float | None = None

    def jar(self, name: str, content: bytes) -> str:
        """Offer a jar; return its line of a lock file."""
        self.jars[f"{name}-1.0.jar"] = content
        return f"{hashlib.sha256(content).hexdigest()} {len(content)} org.example:{name}:1.0"


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Repository]:
    """Run a repository and make it the only one that jgo's settings name."""
    repository = Repository()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            content = repository.jars.get(name)
            if content is None:
                self.send_error(404)
                return
            if repository.busy_until is None:
                repository.busy_until = time.monotonic() + repository.busy_s
            if time.monotonic() < repository.busy_until:
                self.send_error(503)
                return
            repository.asked.append(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if repository.cut_short:
                repository.cut_short -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    settings = home / ".config" / "jgo.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[repositories]\ntest = http://127.0.0.1:{server.server_port}\n")
    monkeypatch.setenv("HOME", str(home))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

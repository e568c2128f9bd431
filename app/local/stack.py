"""Kafka and Valkey together, for `with`: `dialwatch local`, the demo and the tests use them."""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from app.local.jars import Progress
from app.local.kafka import Kafka
from app.local.valkey import Valkey


class Stack:
    """Both servers on the loopback address. All methods block until done.

    Without a `directory` the data are in a temporary one, which is deleted at the end; with one
    they are kept for the next start. Port 0: any free one.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        kafka_port: int = 0,
        valkey_port: int = 0,
        heap_mb: int = 512,
        progress: Progress | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="dialwatch-"))
        self.kafka = Kafka(self.directory / "kafka", kafka_port, heap_mb=heap_mb, progress=progress)
        self.valkey = Valkey(self.directory / "valkey", valkey_port)

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def redis_url(self) -> str:
        return self.valkey.redis_url

    @property
    def environment(self) -> dict[str, str]:
        """Return the settings with which dialwatch's commands find this stack."""
        return {
            "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "DIALWATCH_REDIS_URL": self.redis_url,
        }

    def start(self) -> Self:
        """Start both; return when both serve. Raises LocalStackError."""
        try:
            self.valkey.start()
            self.kafka.start()
        except BaseException:
            self.stop()
            raise
        return self

    def check(self) -> None:
        """Raise LocalStackError where one of them has ended by itself."""
        self.valkey.check()
        self.kafka.check()

    def stop(self) -> None:
        """Stop both, and remove the data when they were temporary."""
        if self._temporary:
            # Nobody needs these data again, so Kafka needn't stop in order.
            self.kafka.kill()
            self.valkey.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            self.kafka.stop()
            self.valkey.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

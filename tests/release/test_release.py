"""The wheel holds the program and nothing else, and runs in an empty environment."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.local.worker import WorkerProcess
from tests.installation import Installation
from tests.samples import account, call

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "app", "streams", "tables")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of what git knows of the packages, as the Dockerfile does."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked("pyproject.toml", "README.md", *PACKAGES):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    building = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *building], cwd=source, check=True)
    (made,) = (source / "dist").glob("*.whl")
    return made


def tracked(*paths: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_wheel_holds_the_program_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    metadata = {name for name in names if ".dist-info/" in name}
    assert set(names) - metadata == set(tracked(*PACKAGES))
    assert wheel.name == f"dialwatch-{PROJECT['version']}-py3-none-any.whl"


def test_the_changelog_begins_with_this_version_and_every_line_says_what_it_wants() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == PROJECT["version"]
    assert versions == sorted(versions, reverse=True)
    entries = re.findall(r"^- (.*)$", text, re.MULTILINE)
    assert entries
    assert [one for one in entries if not re.match(r"\[(CHANGE|FEATURE|FIX)\] \S", one)] == []


class Installed(WorkerProcess):
    """A worker of the wheel's, in an environment of its own."""

    start_seconds = 180.0  # what it imports is compiled first

    def __init__(self, directory: Path, environment: Mapping[str, str], program: Path) -> None:
        super().__init__(directory, environment)
        self.program = program
        assert self.environment is not None
        self.environment.pop("PYTHONPATH", None)

    def command(self) -> list[str]:
        return [str(self.program), "worker"]


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dialwatch` in an environment with what image.lock names, as in the image."""
    place = tmp_path_factory.mktemp("empty")
    venv.create(place, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(place), "install", "-q"]
    pip += ["--no-compile", "--retries=10"]
    lock = str(ROOT / "image.lock")
    subprocess.run([*pip, "--require-hashes", "--requirement", lock], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return place / "bin" / "dialwatch"


@pytest.mark.broker
async def test_the_wheel_in_an_empty_environment_turns_a_call_into_a_command(
    program: Path, installation: Installation, tmp_path: Path
) -> None:
    worker = Installed(tmp_path / "worker", installation.variables, program)
    await installation.publish([account("acme", intent_classes=["A"])])
    worker.start()
    try:
        await installation.publish([call("acme", 0, result="A")])
        await installation.wait_for("notifications", lambda found: len(found) == 2)
        worker.terminate()
        assert worker.wait_exit() == 0
    finally:
        worker.kill()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [program, *arguments], cwd=tmp_path, env=own | installation.environment(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    # Without polars, analysts still have text.
    done = run("export", "call-records", "accounts", "--format", "jsonl", "--to", "history")
    assert done.returncode == 0, done.stderr
    again = run("replay", "--files", "history")
    assert again.returncode == 0, again.stderr
    assert len(again.stdout.splitlines()) == 2
    refused = run("export", "call-records", "--to", "elsewhere")
    assert refused.returncode == 1
    assert "dialwatch[analysis]" in refused.stderr

"""`make setup`: what goes wrong is one line that says what to do."""

import os
import subprocess
from pathlib import Path

import pytest

from app.local.set_up import STAMP, SetUpError, set_up

ROOT = Path(__file__).parent.parent.parent


def executable(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def with_pip_that(environment: Path, script: str) -> None:
    """An environment whose pip is there, and installs as the script does."""
    executable(environment / "bin" / "python", f'case "$*" in *--version) exit 0;; esac\n{script}')


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    made = tmp_path / "requirements.lock"
    made.write_text("one==1.0 \\\n    --hash=sha256:00\n")
    return made


def test_a_python_without_venv_names_the_package_and_leaves_nothing_half_made(
    tmp_path: Path, lock: Path
) -> None:
    environment = tmp_path / "venv"
    script = f"mkdir -p {environment}/bin; echo 'ensurepip is not available.'; exit 1"
    python = executable(tmp_path / "python", script)
    with pytest.raises(SetUpError, match=r"has no venv module: install it \(Debian: apt install"):
        set_up(environment, lock, python)
    assert not environment.exists()


def test_without_a_network_the_cause_is_said_not_that_there_is_no_such_package(
    tmp_path: Path, lock: Path
) -> None:
    said = (
        "echo \"WARNING: Retrying after 'NewConnectionError: [Errno 101] Network is unreachable'\";"
        "echo 'ERROR: No matching distribution found for one==1.0'; exit 1"
    )
    with_pip_that(tmp_path / "venv", said)
    with pytest.raises(SetUpError) as caught:
        set_up(tmp_path / "venv", lock)
    assert "(Network is unreachable): check the network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "No matching distribution" in (tmp_path / "venv" / "set-up.log").read_text()
    assert not (tmp_path / "venv" / STAMP).exists()


def test_what_pip_refuses_is_told_with_its_last_error(tmp_path: Path, lock: Path) -> None:
    with_pip_that(tmp_path / "venv", "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES'; exit 1")
    with pytest.raises(SetUpError, match="ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"):
        set_up(tmp_path / "venv", lock)


def test_an_environment_that_is_whole_is_stamped(tmp_path: Path, lock: Path) -> None:
    with_pip_that(tmp_path / "venv", "echo Collecting one==1.0")
    set_up(tmp_path / "venv", lock)
    assert (tmp_path / "venv" / STAMP).exists()


def test_an_old_python_is_refused_by_make_before_anything_else(tmp_path: Path) -> None:
    old = executable(tmp_path / "python3.8", "exit 1")
    ended = make(["setup"], tmp_path, PYTHON=old)
    assert ended.returncode == 2
    first = ended.stderr.splitlines()[0]
    assert first.startswith(f"dialwatch needs Python 3.11 or newer, and {old} is none")


def test_a_newer_python_beside_an_old_one_is_found(tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "python3", "exit 1")
    executable(tmp_path / "bin" / "python3.14", "exit 1")
    executable(tmp_path / "bin" / "python3.12", "echo python3.12; exit 0")
    path = f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    ended = make(["--dry-run", "setup"], tmp_path, PATH=path)
    assert "python3.12 -m app.local.set_up" in ended.stdout


def make(
    arguments: list[str], directory: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run make on this checkout's Makefile in another directory, where nothing is set up."""
    for name in ("requirements.lock", "pyproject.toml"):
        (directory / name).touch()
    return subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *arguments],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )

"""Make a virtual environment with exactly what the lock file says; `make setup` runs it.

    python3 -m app.local.set_up .venv

Runs before anything is installed, so it imports the standard library only. An error is one line
that says what to do; pip's whole output is kept in a file beside the environment.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

LOCK = Path("requirements.lock")
STAMP = ".set-up"
LOG = "set-up.log"
# The line that pip prints once for each package of the lock file, needed here or not.
_LOOKED_AT = re.compile(r"(Collecting|Ignoring|Requirement already satisfied:) ")


class SetUpError(Exception):
    """The text is one line: what is wrong and what to do."""


def set_up(environment: Path, lock: Path = LOCK, python: str = sys.executable) -> None:
    """Create or complete `environment`; mark it when it is complete. Raises SetUpError.

    `python`: the interpreter that creates a new one.
    """
    if not _works(environment):
        _create(environment, python)
    log = environment / LOG
    log.unlink(missing_ok=True)
    lines = lock.read_text(encoding="utf-8").splitlines()
    count = sum(line[:1].isalnum() for line in lines)
    _pip(environment, ["--require-hashes", "--requirement", str(lock)], count)
    _pip(environment, ["--no-deps", "--no-build-isolation", "--editable", "."], 0)
    (environment / STAMP).touch()


def _works(environment: Path) -> bool:
    """Is there an environment with a working pip? An update of Python may have broken it."""
    try:
        command = [_python(environment), "-m", "pip", "--version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _create(environment: Path, python: str) -> None:
    command = [python, "-m", "venv", "--clear", str(environment)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode == 0:
        return
    shutil.rmtree(environment, ignore_errors=True)
    said = made.stdout + made.stderr
    if "ensurepip" in said or "No module named venv" in said:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetUpError(
            f"{python} has no venv module: install it "
            f"(Debian: apt install python{version}-venv), then run this again"
        )
    raise SetUpError(f"cannot make {environment}: {_last(said.splitlines())}")


def _pip(environment: Path, arguments: Sequence[str], count: int) -> None:
    """Run pip. `count`: the number of packages, to show progress on a terminal; 0: show none."""
    command = [_python(environment), "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", *arguments]
    said = []
    shown = _Counter(count)
    with (
        (environment / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        assert pip.stdout is not None  # noqa: S101 (it is a pipe)
        for line in pip.stdout:
            log.write(line)
            said.append(line)
            shown.look_at(line)
    shown.end()
    if pip.returncode:
        raise SetUpError(
            f"pip could not install what {LOCK} names ({_last(said)}): check the network, the room "
            f"on the disk and pip's own settings, then run this again; all it said is in "
            f"{environment / LOG}"
        )


def _last(lines: Iterable[str]) -> str:
    """Return the most useful line of pip's output: the system's error, else pip's last one.

    Without a network pip's last error is that there are no such packages.
    """
    said = [" ".join(line.split()) for line in lines if line.strip()]
    causes = re.findall(r"\[Errno -?\d+\] ([\w ]+)", "\n".join(said))
    errors = [line for line in said if line.startswith(("ERROR:", "Error:"))]
    return str((causes or errors or said or ["it said nothing"])[-1])[:200]


def _python(environment: Path) -> str:
    return str(environment / "bin" / "python")


class _Counter:
    """Shows pip's progress on a terminal; nothing elsewhere."""

    def __init__(self, count: int) -> None:
        self._count = count if sys.stderr.isatty() else 0
        self._seen = 0

    def look_at(self, line: str) -> None:
        if not self._count:
            return
        if _LOOKED_AT.match(line):
            self._seen += 1
            self._show(f"{min(self._seen, self._count)} of {self._count} packages")
        elif line.startswith("Installing collected packages"):
            self._show("putting them in place")

    def end(self) -> None:
        if self._count:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Set up the environment that the command line names."""
    environment = Path(sys.argv[1])
    print(f"Installing what {LOCK} names into {environment}", flush=True)
    try:
        set_up(environment)
    except SetUpError as error:
        print(f"dialwatch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"dialwatch: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

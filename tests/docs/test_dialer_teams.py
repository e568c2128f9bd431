"""What `docs/dialer-teams.md` tells dialer teams to do is done here, as they would."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import Installation

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "dialer-teams.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "docs" / "examples" / "publish_calls.py"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [
        shlex.split(line, comments=True)
        for block in blocks
        for line in block.splitlines()
        if line.strip()
    ]


def test_every_file_that_the_page_names_is_there() -> None:
    for name in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / name).exists(), name


@pytest.mark.broker
def test_the_example_is_a_batch_that_the_worker_tells_of(
    installation: Installation, tmp_path: Path
) -> None:
    (command,) = [one for one in commands() if "publish_calls.py" in one[1]]
    topic = installation.topics.calls
    ran = subprocess.run(
        [sys.executable, EXAMPLE, installation.brokers, topic, *command[3:]],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert len({line.split("/")[1] for line in ran.stdout.splitlines()}) == 1
    installation.variables["DIALWATCH_RUN_LENGTH"] = "10"
    replayed = subprocess.run(
        [sys.executable, "-m", "app.cli", "replay"],
        env=installation.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    for scenario in ("batch_completed", "unreachable_run"):
        assert f'"{scenario}"' in replayed.stdout
    exported = subprocess.run(
        [sys.executable, "-m", "app.cli", "check", "-"],
        input="".join(f"{line}\n" for line in values()),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=180,
        check=False,
    )
    assert exported.returncode == 0, exported.stdout


def values() -> list[str]:
    """The example's records, made again."""
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, json; sys.path.insert(0, {str(EXAMPLE.parent)!r}); "
            "import publish_calls as p; [print(json.dumps(c)) for c in p.finished_calls('acme')]",
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return made.stdout.splitlines()


def test_the_check_commands_of_the_page_run(tmp_path: Path) -> None:
    record = values()[0]
    recharge = (
        '{"recharge_id":"r","account_id":"acme","amount":"1","balance":"2",'
        '"completed_at":"2026-11-02T09:00:00+08:00"}'
    )
    (tmp_path / "calls.jsonl").write_text(record + "\n")
    (tmp_path / "calls.tsv").write_text(f"call-records\tacme\t{record}\n")
    (tmp_path / "recharges.jsonl").write_text(recharge + "\n")
    checks = [one for one in commands() if one[1] == "check"]
    assert len(checks) == 3
    for command in checks:
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

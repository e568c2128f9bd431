"""What docs/operators.md tells people to type is typed here."""

import math
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.test_commands import dialwatch
from tests.installation import Installation
from tests.operations.conftest import LINE, Run
from tests.operations.letters import bury, letter

PAGE = (Path(__file__).parent.parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^ *```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.strip().startswith("dialwatch ")
]


def test_an_operator_s_ten_questions_have_one_command_each() -> None:
    questions = re.findall(r"^(\d+)\. \*\*.*?```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert [int(number) for number, _ in questions] == list(range(1, 11))
    for _, block in questions:
        assert len(block.strip().splitlines()) == 1


@pytest.mark.broker
@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if "--execute" not in one], ids=" ".join
)
def test_a_command_of_the_page_answers(command: list[str], run: Run) -> None:
    known = {"line-7": LINE}
    if "NOTIFICATION" in command:
        known["NOTIFICATION"] = run("deliveries").rows()[0]["notification_id"]
    if "LETTER" in command:
        known["LETTER"] = run("dlq", "list", "--all").rows()[0]["letter"]
    ended = run(*(known.get(word, word) for word in command))
    assert ended.code == 0, ended.err
    narrow = {"failed", "undelivered", "ticks"} & set(command)
    ranged = "--since" in command and not {"-1d", "-7d"} & set(command)
    assert ended.out or narrow or ranged


@pytest.mark.broker
async def test_the_command_that_does_something_does_it(
    installation: Installation, tmp_path: Path
) -> None:
    (command,) = [one for one in COMMANDS if "--execute" in one]
    (name,) = await bury(installation, letter(installation.topics.calls, b"acme", b"{}"))
    words = [name if word == "LETTER" else word for word in command]
    ended = dialwatch(*words, directory=tmp_path, variables=installation.variables)
    assert ended.returncode == 0, ended.stderr
    (sent,) = await installation.read("call-records")
    assert (sent.key, sent.value) == (b"acme", b"{}")


SCALING = (Path(__file__).parent.parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("calls", [1_000, 10_000, 100_000])
def test_the_table_of_workers_is_what_its_rules_give(calls: int) -> None:
    (row,) = re.findall(rf"^\| {calls:,} calls/s \|(.*)\|$", SCALING, re.MULTILINE)
    cells = [re.findall(r"[\d.]+", cell) for cell in row.split("|")]
    for millions, cell in zip((1, 10, 100), cells, strict=True):
        accounts = millions * 10**6
        workers = max(2, math.ceil(calls / 30_000), 1 + math.ceil(accounts / 4_000_000))
        gib = 0.1 + accounts / (workers - 1) / 2**20  # 1 KiB each, of those that are left
        limit = next(one for one in (1, 1.5, 2, 4) if gib <= one)
        partitions = max(8, 4 * (workers - 1))
        assert list(map(float, cell)) == [workers, limit, partitions]
        # A share that isn't even fits, too: the largest one of those that are left.
        largest = math.ceil(partitions / (workers - 1)) / partitions
        assert 0.1 + accounts * largest / 2**20 <= limit

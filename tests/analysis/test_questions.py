"""docs/analysts.md: each of its commands is run over a week, and answers what it says it does."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from app.analysis import replay
from tests.analysis.week import TUESDAY, week, write_export
from tests.cli.test_commands import dialwatch
from tests.test_packages import ROOT

DOC = (ROOT / "docs/analysts.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dialwatch replay")
]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the week in `history`, as the doc's reader has it."""
    directory = tmp_path_factory.mktemp("analysts")
    (directory / "history").mkdir()
    write_export(directory / "history", week())
    return directory


def answer(history: Path, asked: str) -> str:
    """Run the doc's command that holds these words, as a shell does."""
    (command,) = [one for one in COMMANDS if asked in one]
    program = f"{sys.executable} -m app.cli"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("dialwatch", program, 1)],
        cwd=history,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def test_what_if_the_threshold_were_50(history: Path) -> None:
    rows = answer(history, "unreachable_run --summary").splitlines()
    told = {line.split()[0]: int(line.split()[3]) for line in rows if " variant " in line}
    assert told["50"] > 2 * told["100"] > 0
    answer(history, "--to alerts.csv")
    alerts = list(csv.DictReader(io.StringIO((history / "alerts.csv").read_text())))
    assert sum(one["run_length"] == "50" for one in alerts) == told["50"]
    assert len(alerts) == told["50"] + told["100"]
    assert not list(history.glob(".*.part"))


def test_what_last_tuesday_cost(history: Path) -> None:
    lines = [line.split() for line in answer(history, "--sms-price 0.05 --output").splitlines()]
    days = [line for line in lines if line[2:3] == ["day"]]
    assert {line[3] for line in days} == {TUESDAY}
    sms = [line for line in days if line[5] == "sms"]
    assert sms
    for line in sms:
        assert float(line[7]) == pytest.approx(int(line[6]) * 0.05)
    (whole,) = [line for line in lines if line[2] == "variant"]
    assert float(whole[-1]) == pytest.approx(sum(float(line[7]) for line in sms))


def test_which_accounts_get_too_many_messages(history: Path) -> None:
    rows = list(csv.reader(io.StringIO(answer(history, "grep ,account,"))))
    counts = [(row[6], int(row[7])) for row in rows]
    assert counts == sorted(counts, key=lambda one: (-one[1], one[0]))
    assert len(counts) == 16
    assert counts[0][1] > 100 > counts[-1][1]


def test_whether_the_new_window_would_have_caught_the_outage(history: Path) -> None:
    rows = [json.loads(line) for line in answer(history, "line-017").splitlines()]
    assert rows
    assert {row["window_hours"] for row in rows} == {24}
    assert all(row["command"]["cause"]["line_id"] == "line-017" for row in rows)


def test_the_report_is_one_page_that_says_it_all(history: Path) -> None:
    assert answer(history, "--report") == ""
    page = (history / "report.html").read_text()
    assert re.findall(r"https?://|<script|@import|url\(|src=", page) == []
    for word in ("50 in 24 h", "100 in 24 h", "200 in 24 h", "unreachable_run", "Asia/Shanghai",
                 "acct-00", "2026-11-16 to 2026-11-22", "￥"):  # fmt: skip
        assert word in page
    assert page.count("<svg") == 3 + 2 + 1
    assert "137" not in re.sub(r'[xyrd]\d?="[^"]*"|points="[^"]*"', "", page)  # no phone


def test_the_example_runs(history: Path) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "docs/examples/analysts.py", "history"],
        cwd=history,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "line-017" in ended.stdout


def test_a_frame_holds_each_variant_s_commands(history: Path) -> None:
    since = "2026-11-17T00:00:00+08:00"
    told = replay(history / "history", run_length=[50, 100], window_hours=6, since=since)
    assert told.schema["occurred_at"] == pl.Datetime("us", "Asia/Shanghai")
    assert set(told["run_length"]) == {50, 100}
    assert set(told["window_hours"]) == {6.0}
    printed = dialwatch(
        "replay", "--files", "history", "--run-length", "50", "--window-hours", "6",
        "--since", since, directory=history,
    )  # fmt: skip
    ids = [json.loads(line)["notification_id"] for line in printed.stdout.splitlines()]
    assert told.filter(run_length=50)["notification_id"].to_list() == ids
    assert replay(history / "history", run_length=10**6, scenario="unreachable_run").is_empty()


def test_rows_are_the_same_in_every_format(history: Path) -> None:
    asked = (
        "replay",
        "--files",
        "history",
        "--scenario",
        "line_error_run",
        "--run-length",
        "50,100",
    )
    lines = dialwatch(*asked, directory=history).stdout.splitlines()
    for output in ("csv", "parquet"):
        ended = dialwatch(*asked, "--output", output, "--to", f"out.{output}", directory=history)
        assert ended.returncode == 0, ended.stderr
    frame = pl.read_parquet(history / "out.parquet")
    table = pl.read_csv(history / "out.csv", schema_overrides={"window_hours": pl.Float64})
    assert frame.equals(table)
    ids = [json.loads(line)["command"]["notification_id"] for line in lines]
    assert frame["notification_id"].to_list() == ids
    assert len(ids) > 10


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--run-length", "50,ten"), 2, "--run-length: ten"),
        (("--run-length", "0"), 2, "--run-length: 0"),
        (("--window-hours", "24,"), 2, "--window-hours: nothing"),
        (("--window-hours", "nan"), 2, "--window-hours: nan"),
        (("--since", "2026-11-17T10:00:00"), 2, "--since"),
        (("--since", "-1d", "--until", "-2d"), 2, "--until"),
        (("--scenario", "low"), 2, "--scenario"),
        (("--output", "parquet"), 2, "--to FILE"),
        (("--to", "nowhere/x"), 2, "there is no directory"),
        (("--report", "."), 2, "is a directory"),
        (("--against", "deliveries"), 2, "--against"),
        (("--against", "notifications"), 1, "there is no"),
        (("--sms-price", "1"), 2, "--sms-price"),
        (("--until", "2020-01-01T00:00:00Z"), 1, "no records in this range"),
    ],
)
def test_what_cant_be_answered_is_one_line(
    history: Path, arguments: tuple[str, ...], code: int, word: str
) -> None:
    ended = dialwatch("replay", "--files", "history", *arguments, directory=history)
    assert ended.returncode == code, ended.stderr
    (line,) = [one for one in ended.stderr.splitlines() if one.startswith("dialwatch:")]
    assert word in line
    assert ended.stdout == ""


def test_files_that_are_broken_or_of_another_topic_are_named(history: Path, tmp_path: Path) -> None:
    day = f"call-records/0/{TUESDAY}"
    whole = (history / "history" / f"{day}.jsonl").read_bytes()
    frame = pl.DataFrame({"topic": ["deliveries"], "partition": [0], "offset": [0],
                          "timestamp": [0], "key": [b""], "value": [b""]})  # fmt: skip
    frame.write_parquet(tmp_path / "other.parquet")
    other = (tmp_path / "other.parquet").read_bytes()
    for number, (name, content, word) in enumerate([
        ("jsonl", whole[: len(whole) // 2], "is no whole export"),
        ("parquet", other[: len(other) // 2], "is no whole Parquet file"),
        ("parquet", other, "holds records of deliveries-0"),
        ("jsonl", whole.replace(b'"call-records"', b'"recharges"'), "holds records of recharges-0"),
    ]):  # fmt: skip
        file = tmp_path / str(number) / f"{day}.{name}"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        ended = dialwatch("replay", "--files", str(tmp_path / str(number)), directory=tmp_path)
        assert ended.returncode == 1, ended.stderr
        (line,) = [one for one in ended.stderr.splitlines() if one.startswith("dialwatch:")]
        assert word in line
        assert TUESDAY in line

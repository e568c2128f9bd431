"""docs/analysts.md: each of its commands is run over a week, and answers what it says it does."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from app.analysis import replay
from app.analysis.commands import own_instants
from app.errors import SettingsError
from tests.analysis.week import MONDAY, TUESDAY, Event, week, write_export
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
    assert "variants; the tables" not in page
    assert "Of the whole history, all accounts.</p>" in page
    assert page.count("<svg") == 3 + 2 + 1
    assert "137" not in re.sub(r'[xyrd]\d?="[^"]*"|points="[^"]*"', "", page)  # no phone


def test_the_report_says_what_is_of_the_whole_and_what_it_leaves_out(tmp_path: Path) -> None:
    write_export(tmp_path, week(days=1))
    lengths = ",".join(map(str, range(20, 45)))
    ended = dialwatch(
        "replay", "--files", ".", "--run-length", lengths, "--account", "acct-00",
        "--report", "some.html", directory=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "some.html").read_text()
    assert "The first 24 of 25 variants" in page
    assert "Of the whole history, all accounts: not only of the part that was asked for." in page
    assert ": the whole history, all accounts</dd>" in page


def test_a_time_past_the_calendar_ends_no_report(tmp_path: Path) -> None:
    write_export(tmp_path, week(days=1))
    file = tmp_path / f"call-records/0/{MONDAY:%Y-%m-%d}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    last = json.loads(lines[-1])
    lines.append(json.dumps(last | {"offset": last["offset"] + 1, "timestamp": 10**15}) + "\n")
    file.write_text("".join(lines))
    ended = dialwatch("replay", "--files", ".", "--report", "r.html", directory=tmp_path)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "r.html").read_text()
    assert re.search("<dd>2026-11-16T[0-9:]{8} to 9999-12-31T23:59:59</dd>", page)


def test_a_title_controls_no_terminal(tmp_path: Path) -> None:
    title = "a\x1b[2Jb\rc\nd"
    said = {"announcement_id": "n", "kind": "service", "title": title, "content": title,
            "published_at": MONDAY.isoformat()}  # fmt: skip
    write_export(tmp_path, [*week(days=1), Event(MONDAY, "announcements", "n", said)])
    asked = ("replay", "--files", ".", "--scenario", "announcement", "--account", "acct-00")
    table = dialwatch(*asked, "--output", "table", directory=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "a�[2Jb�c d" in table.stdout
    assert "\x1b" not in table.stdout
    rows = dialwatch(*asked, directory=tmp_path).stdout.splitlines()
    assert title in {json.loads(row)["title"] for row in rows}  # programs get it as it is


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


def test_what_a_frame_lacks_is_warned_of(history: Path, tmp_path: Path) -> None:
    shutil.copytree(history / "history", tmp_path / "part")
    shutil.rmtree(tmp_path / "part/call-records/1")
    shutil.rmtree(tmp_path / "part/ticks")
    with pytest.warns(UserWarning, match="the export has no") as warned:
        replay(tmp_path / "part", scenario="unreachable_run")
    said = {str(one.message) for one in warned}
    assert "the export has no records of ticks" in said
    assert "the export has no call-records of partitions 1" in said
    assert {one.filename for one in warned} == {__file__}


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_process_at_all_is_refused(jobs: int, history: Path) -> None:
    with pytest.raises(SettingsError, match="--jobs: must be 1 or more"):
        replay(history / "history", jobs=jobs)


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
        (("--summary", "--sms-price", "inf"), 2, "'--sms-price': must be a number"),
        (("--summary", "--sms-price", "1e999"), 2, "--sms-price: must be a finite number"),
        (("--summary", "--sms-price", "nan"), 2, "--sms-price"),
        (("--report", "r.html", "--output", "csv"), 2, "--output, --to: beside --report"),
        (("--report", "r.html", "--to", "f"), 2, "--output, --to: beside --report"),
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


def test_a_range_beside_or_between_the_commands_is_empty_and_one_far_off_is_a_mistake(
    tmp_path: Path,
) -> None:
    """A history of 2019 that was published in 2026: so Kafka's timestamps are of 2026."""
    said = {"account_id": "a", "line_id": "l", "phone": "1", "batch_size": 9,
            "submitted_at": "2019-01-30T08:00:00+08:00"}  # fmt: skip
    events = [Event(MONDAY, "accounts", "a", {"account_id": "a", "name": "n",
                                              "intent_classes": ["A"]})]  # fmt: skip
    for number, (at, result) in enumerate([
        ("2019-01-30T10:00:00+08:00", "A"),
        ("2019-01-30T12:00:00+08:00", "A"),
        ("2017-05-05T12:00:00+08:00", "B"),  # tells nobody anything
    ]):  # fmt: skip
        call = said | {"call_id": f"c{number}", "batch_index": number, "ended_at": at,
                       "result": result}  # fmt: skip
        events.append(Event(MONDAY, "call-records", "a", call))
    write_export(tmp_path / "history", events)
    first, last = "2019-01-30T10:00:00+08:00", "2019-01-30T12:00:00+08:00"

    def asked(*arguments: str, code: int = 0) -> int:
        ended = dialwatch("replay", "--files", "history", *arguments, directory=tmp_path)
        assert ended.returncode == code, (arguments, ended.stderr)
        assert ("no records in this range" in ended.stderr) == (code == 1)
        return len(ended.stdout.splitlines())

    assert asked("--since", first, "--until", last) == 2  # inbox and WeChat of one call
    assert asked("--until", first, "--summary") == 1  # the variant, with no commands
    for nothing in (
        ("--until", first),
        ("--since", "2019-01-30T12:00:01+08:00"),
        ("--since", "2026-11-16T00:00:02+08:00"),
        ("--since", "2017-05-05", "--until", "2017-05-06"),  # where a call is, and no command
        ("--until", "2017-05-06", "--jobs", "2"),
    ):
        assert asked(*nothing) == 0
    for far_off in (
        ("--until", "2017-05-01"),
        ("--since", "2027-01-01", "--summary"),
        ("--since", "2015-01-01", "--until", "2016-01-01", "--jobs", "2"),
    ):
        assert asked(*far_off, code=1) == 0


def test_a_field_that_a_record_doesnt_have_hides_no_time_of_it() -> None:
    at = "2019-01-30T12:00:00+08:00"
    said = {"ended_at": at, "at": 7, "published_at": {}, "occurred_at": "x"}
    assert list(own_instants(json.dumps(said).encode())) == [1_548_820_800_000_000]
    assert list(own_instants(b"[]")) == list(own_instants(None)) == []


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

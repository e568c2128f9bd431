"""What is printed: masks, and nothing in a table that steers the terminal."""

import csv
import io
import json

import pytest

from app.commands.output import OutputFormat, print_one, print_rows
from app.operations.masks import masked, shown

ROWS = [
    {"name": "<b>[red]甲[/red]\x1b[31m\r\n", "many": ["a", "b"], "none": None, "is": True},
    {"name": "2026-02-14T10:00:00.123456+08:00", "many": [], "none": None, "is": False},
]
COLUMNS = ("name", "many", "none", "is")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("13812345678", "138****5678"),
        ("oABCDEFGHIJ", "oAB****GHIJ"),
        ("12345678", "123****5678"),  # eight
        ("1234567", "****"),  # shorter than eight
        ("", "****"),
    ],
)
def test_openids_and_phones_are_masked_as_the_contract_says(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_whole_only_where_somebody_asks_for_it() -> None:
    assert shown("13812345678", reveal=False) == "138****5678"
    assert shown("13812345678", reveal=True) == "13812345678"
    assert shown(None, reveal=False) is None


def test_a_table_is_plain_text(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, COLUMNS, OutputFormat.TABLE)
    out = capfd.readouterr().out
    assert "<b>[red]甲[/red]�[31m��" in out
    assert "\x1b" not in out
    assert "a, b" in out
    assert "2026-02-14T10:00:00+08:00" in out  # no fraction where people read
    print_rows(ROWS, COLUMNS, OutputFormat.TABLE, few=("is",))
    assert "name" not in capfd.readouterr().out


def test_programs_get_everything_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, COLUMNS, OutputFormat.JSONL)
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == ROWS
    print_rows(ROWS, COLUMNS, OutputFormat.JSON)
    assert json.loads(capfd.readouterr().out) == ROWS
    print_rows(ROWS, COLUMNS, OutputFormat.CSV)
    first, second = csv.DictReader(io.StringIO(capfd.readouterr().out, newline=""))
    assert first == {
        "name": ROWS[0]["name"], "many": '["a","b"]', "none": "", "is": "true"
    }  # fmt: skip
    assert second["name"] == ROWS[1]["name"]
    print_rows([], COLUMNS, OutputFormat.JSON)
    assert json.loads(capfd.readouterr().out) == []


def test_one_answer_has_a_line_for_each_field(capfd: pytest.CaptureFixture[str]) -> None:
    one = {"run": {"count": 3, "first": None}, "batches": []}
    print_one(one, OutputFormat.TABLE)
    lines = [line.split() for line in capfd.readouterr().out.splitlines() if line.strip()]
    assert lines == [["run.count", "3"], ["run.first", "–"], ["batches", "–"]]
    print_one(one, OutputFormat.CSV)
    assert capfd.readouterr().out == "run.count,run.first,batches\n3,,[]\n"
    print_one(one, OutputFormat.JSONL)
    assert json.loads(capfd.readouterr().out) == one

"""Printing results: tables for people; JSON, JSON lines or CSV for programs.

Only data goes to stdout, without decoration where that isn't a terminal.
"""

import csv
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from app.terminal import printable

# The width of tables in a pipe, where lines needn't fit a terminal.
_PIPE_WIDTH = 240
# Entries of a list that are longer than this get a line each.
_SHORT = 20
# Fractions of a second are left out in tables.
_FRACTION = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+(?=[+Z-])")


class OutputFormat(StrEnum):
    """The values of `--output`."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def chosen(output: OutputFormat | None) -> OutputFormat:
    """Return the format asked for; None: a table on a terminal, JSON lines in a pipe."""
    return output or (OutputFormat.TABLE if sys.stdout.isatty() else OutputFormat.JSONL)


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output: OutputFormat,
    *,
    few: Sequence[str] = (),
) -> None:
    """Print rows. `columns`: the columns of CSV, in order; `few`: those of a table on a terminal,
    which has less room (empty: the same)."""
    match output:
        case OutputFormat.TABLE:
            shown = few or columns
            _print_table([[_cell(row[name]) for name in shown] for row in rows], shown)
        case OutputFormat.CSV:
            _print_csv(rows, columns)
        case OutputFormat.JSON:
            _write(msgspec.json.format(msgspec.json.encode(list(rows)), indent=2))
        case OutputFormat.JSONL:
            for row in rows:
                _write(msgspec.json.encode(row))


def cut(rows: Sequence[Mapping[str, Any]], limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the first `limit` rows; where there are more, say so on stderr."""
    if len(rows) > limit:
        print(
            f"there are more than these {limit}: --limit, --since and --until show others",
            file=sys.stderr,
        )
    return rows[:limit]


def print_one(one: Mapping[str, Any], output: OutputFormat) -> None:
    """Print a single object; its table has a line for each field."""
    match output:
        case OutputFormat.TABLE:
            _print_table([[name, _cell(value)] for name, value in _flat(one)], ())
        case OutputFormat.CSV:
            flat = dict(_flat(one))
            _print_csv([flat], list(flat))
        case OutputFormat.JSON:
            _write(msgspec.json.format(msgspec.json.encode(one), indent=2))
        case OutputFormat.JSONL:
            _write(msgspec.json.encode(one))


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the language that the environment asks for, if it is one of ours; else English."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].lower().startswith("zh") else "en"
    return "en"


def _print_table(rows: Iterable[Sequence[str]], columns: Sequence[str]) -> None:
    # Slow to import, and needed for tables only.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, show_header=bool(columns), pad_edge=False)
    for name in columns or ("", ""):
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not str: customers' names must not be read as markup.
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    console.print(table)


def _print_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_plain(row[name]) for name in columns])
    sys.stdout.buffer.write(text.getvalue().encode())


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    return msgspec.json.encode(value).decode()


def _cell(value: Any) -> str:
    """Return a value as text for a table, without characters that control the terminal."""
    if value is None:
        return "–"
    if isinstance(value, list):
        apart = "\n" if any(len(str(one)) > _SHORT for one in value) else ", "
        return apart.join(map(_cell, value)) or "–"
    text = _FRACTION.sub(r"\1", str(_plain(value)))
    return printable(text)


def _flat(one: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in one.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")

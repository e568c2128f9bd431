"""How commands print what they found: tables for people, JSON, JSON lines or CSV for programs.

Data on stdout and nothing else; no decoration where it isn't a terminal.
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

# Nobody folds what goes through a pipe.
_PIPE_WIDTH = 240
# Longer entries of a list get a line each.
_SHORT = 20
# Of a second: nobody reads it in a table.
_FRACTION = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+(?=[+Z-])")


class OutputFormat(StrEnum):
    """What `--output` takes."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def chosen(output: OutputFormat | None) -> OutputFormat:
    """Return the output that was asked for, else a table on a terminal and JSON lines in a pipe."""
    return output or (OutputFormat.TABLE if sys.stdout.isatty() else OutputFormat.JSONL)


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output: OutputFormat,
    *,
    few: Sequence[str] = (),
) -> None:
    """Print a list. `columns`: of CSV, in their order; `few`: those that a terminal has room for,
    none: the same."""
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


def print_one(one: Mapping[str, Any], output: OutputFormat) -> None:
    """Print a single answer; a table of it has a line for each field."""
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
    """Return the language that the environment asks for, as far as we speak it."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].lower().startswith("zh") else "en"
    return "en"


def _print_table(rows: Iterable[Sequence[str]], columns: Sequence[str]) -> None:
    # Slow to import, and programs don't ask for it.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, show_header=bool(columns), pad_edge=False)
    for name in columns or ("", ""):
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text: what customers call themselves is no markup.
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
    """Return a value as a table shows it: none of its characters may steer the terminal."""
    if value is None:
        return "–"
    if isinstance(value, list):
        apart = "\n" if any(len(str(one)) > _SHORT for one in value) else ", "
        return apart.join(map(_cell, value)) or "–"
    text = _FRACTION.sub(r"\1", str(_plain(value)))
    return "".join(one if one.isprintable() else "�" for one in text)


def _flat(one: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in one.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")

"""Printing rows as JSON lines, CSV, Parquet or a table, to stdout or into a file.

Rows are written as they come. A file is written under another name first, and renamed when it is
complete.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO, Literal
from unicodedata import east_asian_width

from app.analysis.parquet import RowsWriter
from app.errors import CommandError, SettingsError
from app.terminal import printable

Format = Literal["jsonl", "csv", "parquet", "table"]
_WIDEST = 60


class Rows:
    """Writes rows. `columns`: each a name and its width in a table (0: as wide as needed)."""

    def __init__(self, out: BinaryIO, format_: Format, columns: dict[str, type]) -> None:
        self.format = format_
        self.written = 0
        self._out = out
        self._columns = columns
        self._text = io.StringIO()
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._parquet = RowsWriter(out, columns) if format_ == "parquet" else None
        self._table: list[list[str]] = []
        self._widths: list[int] = []
        if format_ == "csv":
            self._csv.writerow(columns)

    def put_json(self, document: bytes) -> None:
        """Write one row, given as JSON. Only for the format jsonl."""
        self._out.write(document + b"\n")
        self.written += 1

    def put(self, row: Sequence[Any]) -> None:
        """Write one row, given by columns. For all formats but jsonl."""
        self.written += 1
        if self._parquet is not None:
            self._parquet.put(row)
        elif self.format == "csv":
            self._csv.writerow("" if value is None else value for value in row)
            if self._text.tell() > 1 << 16:
                self._flush_text()
        else:
            self._table.append(["" if value is None else str(value) for value in row])
            if len(self._table) >= 500:
                self._flush_table()

    def end(self) -> None:
        """Write the rows that still wait."""
        if self._parquet is not None:
            self._parquet.end()
        elif self.format == "csv":
            self._flush_text()
        elif self.format == "table":
            self._flush_table()
        self._out.flush()

    def _flush_text(self) -> None:
        self._out.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()

    def _flush_table(self) -> None:
        """Write the table's waiting rows. Columns are as wide as these need, so that no row must
        wait for the last one."""
        lines = self._table
        if not self._widths:
            lines = [list(self._columns), *lines]
            self._widths = [
                min(max(map(_width, column)), _WIDEST) for column in zip(*lines, strict=True)
            ]
        for line in lines:
            cells = [_fit(one, width) for one, width in zip(line, self._widths, strict=True)]
            self._out.write("  ".join(cells).rstrip().encode() + b"\n")
        self._table = []


def _width(text: str) -> int:
    return sum(2 if east_asian_width(one) in "WF" else 1 for one in text)


def _fit(text: str, width: int) -> str:
    text = printable(text.replace("\n", " "))
    while _width(text) > width:
        text = text[: -2 if text.endswith("…") else -1] + "…"
    return text + " " * (width - _width(text))


def check_output(format_: Format, to: Path | None) -> None:
    """Raise SettingsError where a format can't be written to this place."""
    if format_ == "parquet" and to is None:
        raise SettingsError(["--output parquet: needs --to FILE"])
    check_place("--to", to)


def check_place(option: str, file: Path | None) -> None:
    """Raise SettingsError where a file can't be written; this is tried. Deletes what other
    processes left of this file when they were killed. None: no file is asked for."""
    if file is None:
        return
    try:
        if file.is_dir():
            raise SettingsError([f"{option}: {file} is a directory: name a file in it"])
        if file.exists() and not file.is_file():
            raise SettingsError([f"{option}: {file} is no plain file: name another one"])
        parent = file.absolute().parent
        if not parent.is_dir():
            raise SettingsError([f"{option}: there is no directory {parent}: make it"])
        _delete_left_over(file)
        beside = _beside(file, os.getpid())
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise SettingsError(
            [f"{option}: {file} can't be written ({error.strerror}): name another place"]
        ) from None


def _beside(file: Path, process: int | str) -> Path:
    """Return the name that a file has while a process writes it."""
    return file.with_name(f".{file.name}.{process}.part")


def _delete_left_over(file: Path) -> None:
    for one in file.parent.glob(_beside(Path(escape(file.name)), "*").name):
        process = one.name.split(".")[-2]
        if process.isdecimal() and not _is_running(int(process)):
            with suppress(OSError):  # somebody else's; it disturbs nobody
                one.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def written(to: Path | None) -> Iterator[BinaryIO]:
    """Yield stdout, or a new file that is renamed to `to` at the end (after an error: deleted).

    Raises CommandError where it can't be written."""
    if to is None:
        try:
            yield sys.stdout.buffer
        except BrokenPipeError:
            raise
        except OSError as error:
            # What is still buffered can't be written when the program ends, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise _unwritten("stdout", error) from None
        return
    beside = _beside(to, os.getpid())
    try:
        with beside.open("wb") as out:
            yield out
        beside.replace(to)
    except OSError as error:
        raise _unwritten(str(to), error) from None
    finally:
        beside.unlink(missing_ok=True)


def _unwritten(file: str, error: OSError) -> CommandError:
    reason = " ".join((error.strerror or str(error)).split())
    return CommandError(
        f"{file} can't be written ({reason}): make room, or name another place, and run it again"
    )

"""Reading and writing Parquet by row groups, with polars, which is imported only when needed.

A row group is in memory, never a whole file. polars writes a file from one frame, so row groups are
first written as files of their own and then streamed into one.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from app.errors import CommandError

ROW_GROUP = 16_384
_NEVER_NULL = ("topic", "partition", "offset", "timestamp")


def load_polars() -> ModuleType:
    """Import and return polars. Raises CommandError where it isn't installed."""
    try:
        import polars  # noqa: PLC0415 (a worker never needs it)
    except ImportError:
        raise CommandError(
            "Parquet and data frames need polars: install dialwatch[analysis], or `make setup`"
        ) from None
    return polars


def export_schema() -> dict[str, Any]:
    """Return the columns of an export's files and their polars types."""
    polars = load_polars()
    header = polars.Struct({"key": polars.String, "value": polars.Binary})
    return {
        "topic": polars.String,
        "partition": polars.Int32,
        "offset": polars.Int64,
        "timestamp": polars.Int64,
        "key": polars.Binary,
        "value": polars.Binary,
        "headers": polars.List(header),
    }


class GroupsWriter:
    """Collects row groups, and writes them as one Parquet file at the end."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory`: for temporary files; None: the system's."""
        self._polars = load_polars()
        self._directory = tempfile.TemporaryDirectory(prefix="dialwatch-", dir=directory)
        self._files: list[Path] = []

    def add(self, frame: Any) -> None:
        """Add a frame of about the size of a row group. Raises CommandError where it can't be
        written."""
        file = Path(self._directory.name) / f"{len(self._files)}.parquet"
        with _writing(file):
            frame.write_parquet(file, compression="zstd", compression_level=1)
        self._files.append(file)

    def end(self, file: Path, before: Path | None = None, keep: int = 0) -> None:
        """Write all row groups into `file`, after the first `keep` rows of the file `before`.
        Raises CommandError where it can't be written."""
        polars = self._polars
        frames = [polars.scan_parquet(one, glob=False) for one in self._files]
        if before is not None and keep:
            frames.insert(0, polars.scan_parquet(before, glob=False).head(keep))
        lazy = polars.concat(frames)
        with _writing(file):
            lazy.sink_parquet(
                file, compression="zstd", row_group_size=ROW_GROUP, maintain_order=True
            )
        self.discard()

    def discard(self) -> None:
        """Delete the temporary files."""
        self._directory.cleanup()


class RowsWriter:
    """Writes rows into an open Parquet file."""

    def __init__(self, out: BinaryIO, columns: dict[str, type]) -> None:
        polars = load_polars()
        types = {str: polars.String, int: polars.Int64, float: polars.Float64}
        self._schema = {name: types[kind] for name, kind in columns.items()}
        self._polars = polars
        self._out = out
        self._groups = GroupsWriter()
        self._rows: list[Sequence[Any]] = []
        self._is_empty = True

    def put(self, row: Sequence[Any]) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def end(self) -> None:
        """Write the file."""
        if self._rows or self._is_empty:
            self._flush()
        with tempfile.TemporaryDirectory(prefix="dialwatch-") as directory:
            whole = Path(directory) / "whole.parquet"
            self._groups.end(whole)
            with whole.open("rb") as file:
                while block := file.read(1 << 20):
                    self._out.write(block)

    def _flush(self) -> None:
        self._groups.add(self._polars.DataFrame(self._rows, schema=self._schema, orient="row"))
        self._rows, self._is_empty = [], False


def row_groups(
    file: Path, columns: Sequence[str], most: int = ROW_GROUP, if_there: Sequence[str] = ()
) -> Iterator[Any]:
    """Yield these columns of an export's file, as frames of at most `most` rows; those of
    `if_there` where it has them. Raises CommandError where the file is broken, or its columns
    aren't those of an export."""
    polars = load_polars()
    schema = export_schema()
    try:
        lazy = polars.scan_parquet(file, glob=False)
        found = lazy.collect_schema()
        columns = [*columns, *(name for name in if_there if name in found)]
        wrong = [
            f"{name} is {found.get(name, 'missing')}, not {schema[name]}"
            for name in columns
            if not _is_like(name, found.get(name), schema[name])
        ]
        if wrong:
            raise CommandError(f"{file} isn't of an export: {', '.join(wrong)}")
        count = lazy.select(polars.len()).collect().item()
        for begin in range(0, count, most):
            frame = lazy.select(columns).slice(begin, most).collect()
            for name in columns:
                if name in _NEVER_NULL and frame[name].null_count():
                    raise CommandError(f"{file} isn't of an export: {name} is null in some rows")
            yield frame
    except (polars.exceptions.PolarsError, OSError) as error:
        raise CommandError(
            f"{file} is no whole Parquet file ({_reason(error)}): delete it and export it again"
        ) from None


def _is_like(name: str, found: Any, wanted: Any) -> bool:
    """Do values of the type `found` read as those of an export's? A column of nulls alone has a
    type of its own, and other tools write integers of other widths."""
    if found is None:
        return False
    if wanted.is_integer():
        return bool(found.is_integer())
    return found == wanted or (name not in _NEVER_NULL and found == load_polars().Null)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Raise CommandError, with the file's name, where polars can't write it."""
    try:
        yield
    except (load_polars().exceptions.PolarsError, OSError) as error:
        raise CommandError(f"can't write {file}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

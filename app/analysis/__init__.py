"""Replay: reading, folding, counting and showing what topics or an export hold. Writes nothing into
Kafka.

In a notebook: `from app.analysis import replay`.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars

    from app.settings import Settings

__all__ = ["replay"]


def replay(
    files: str | Path | None = None,
    *,
    run_length: int | Iterable[int] | None = None,
    window_hours: float | Iterable[float] | None = None,
    since: str | None = None,
    until: str | None = None,
    scenario: str | Iterable[str] | None = None,
    account: str | None = None,
    jobs: int = 1,
    settings: "Settings | None" = None,
) -> "polars.DataFrame":
    """Fold an export (a directory), or the topics where `files` is None; return the commands.

    One row for each variant and command: `run_length`, `window_hours`, `notification_id`,
    `scenario`, `account_id`, `channel`, `occurred_at` (a datetime in the settings' zone), `title`,
    `content`, `page`, `cause` (JSON), in the order in which the worker would tell them. Several
    lengths or windows are folded in one pass. `since`, `until`, `jobs` as `dialwatch replay` takes
    them; `settings`: None loads the environment's. With `jobs` a script's own work must stand
    under `if __name__ == "__main__"`, as Python's processes want it.

    Raises SettingsError for wrong arguments, CommandError where Kafka, a topic or a file is
    missing; warns of records that the replay lacked or passed over. The frame is in memory: give a
    range where there are millions of commands.
    """
    from app.analysis.commands import COLUMNS, VARIANT_COLUMNS, row_of  # noqa: PLC0415
    from app.analysis.parquet import load_polars  # noqa: PLC0415
    from app.analysis.run import Replay, asked_for  # noqa: PLC0415
    from app.garbage_collector import tuning_undone  # noqa: PLC0415
    from app.settings import load_settings  # noqa: PLC0415

    pl = load_polars()
    if settings is None:
        settings = load_settings()
    asked = asked_for(
        settings,
        files=None if files is None else Path(files),
        since=since,
        until=until,
        run_length=_listed(run_length),
        window_hours=_listed(window_hours),
        scenario=[scenario] if isinstance(scenario, str) else list(scenario or []),
        account=account,
        jobs=jobs,
    )
    rows: list[tuple[Any, ...]] = []
    with tuning_undone(), Replay(asked) as run:
        for number, command, _ in run.commands():
            row = row_of(command)
            rows += [
                (variant.run_length, variant.window_hours, *row)
                for _, variant in run.variants_of(number)
            ]
        for note in run.notes():
            warnings.warn(note, stacklevel=2)
    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    columns = VARIANT_COLUMNS | COLUMNS
    frame = pl.DataFrame(
        rows, schema={name: types[kind] for name, kind in columns.items()}, orient="row"
    )
    told: polars.DataFrame = frame.with_columns(
        pl.col("occurred_at")
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC")
        .dt.convert_time_zone(settings.timezone)
    )
    return told


def _listed(given: float | Iterable[float] | None) -> str | None:
    if given is None:
        return None
    numbers = [given] if isinstance(given, int | float) else given
    return ",".join(map(str, numbers))

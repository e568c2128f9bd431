"""What a notebook does with a history: run it with the directory of an export.

    python docs/examples/analysts.py history

Each part stands for a cell. `replay` folds in this process and returns a polars DataFrame.
"""

import sys

import polars as pl

from app.analysis import replay


def main(history: str) -> None:
    # One pass over the records for all three lengths; an export is read, Kafka isn't needed.
    told = replay(history, run_length=[50, 100, 200])

    # How many alerts a day does each length bring?
    alerts = (
        told.filter(pl.col("scenario").is_in(["unreachable_run", "line_error_run"]))
        .group_by("run_length", pl.col("occurred_at").dt.date().alias("day"))
        .len("alerts")
        .pivot("run_length", index="day", values="alerts", sort_columns=True)
        .sort("day")
        .fill_null(0)
    )
    print(alerts)

    # Who hears of a line first, and how long before the others? The cause is JSON.
    lines = (
        told.filter(scenario="line_error_run", run_length=50)
        .with_columns(line=pl.col("cause").str.json_path_match("$.line_id"))
        .group_by("line", "occurred_at")
        .agg(pl.col("account_id").n_unique().alias("accounts told"))
        .sort("occurred_at")
    )
    print(lines)

    # Whoever is told more than twenty times a day would rather not be.
    weary = (
        told.filter(run_length=100)
        .group_by("account_id", pl.col("occurred_at").dt.date().alias("day"))
        .len("messages")
        .filter(pl.col("messages") > 20)
        .sort("messages", "account_id", descending=[True, False])
    )
    print(weary.head())


if __name__ == "__main__":
    main(sys.argv[1])

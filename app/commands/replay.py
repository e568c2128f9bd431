"""`dialwatch replay`: fold the topics, or an export of them, again; send and write nothing.

Checks the options, and prints what `app/analysis` finds: the commands themselves, their counts
(`--summary`, `--report`), or their differences from those really sent (`--against`).
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from app.analysis.against import Against, counted, grounds
from app.analysis.commands import (
    COLUMNS,
    VARIANT_COLUMNS,
    beside_of,
    decode_command,
    row_of,
    with_variant,
)
from app.analysis.rows import Format, Rows, check_output, check_place, written
from app.analysis.run import Asked, Replay, asked_for, ended_by_sigterm
from app.analysis.summary import COLUMNS as SUMMARY_COLUMNS
from app.analysis.summary import Summary
from app.errors import SettingsError, all_of
from app.settings import Settings
from streams.records import encode
from streams.topics import ContractTopic


@dataclass(frozen=True)
class ReplayOptions:
    """The options of `dialwatch replay`, as they were typed."""

    files: Path | None = None
    since: str | None = None
    until: str | None = None
    run_length: str | None = None
    window_hours: str | None = None
    scenario: Sequence[str] | None = None
    account: str | None = None
    against: str | None = None
    summary: bool = False
    report: Path | None = None
    output: Format = "jsonl"
    to: Path | None = None
    jobs: int = 1
    sms_price: float | None = None


def run_replay(settings: Settings, options: ReplayOptions) -> int:
    """Run a replay and print its results; return the exit code.

    Raises SettingsError for wrong options, CommandError where Kafka, a topic or a file is missing.
    """
    asked = checked(settings, options)
    output, to, report = options.output, options.to, options.report
    counts = Summary(asked.variants, sms_price=options.sms_price, signature=settings.sms_signature)
    with ended_by_sigterm(), Replay(asked) as run:
        if options.against is not None:
            _print_differences(run, output, to)
        elif options.summary or report is not None:
            for number, command, said in run.commands():
                counts.add(number, said or decode_command(command))
        else:
            _print_commands(run, output, to)
        notes = run.notes()
        for note in notes:
            print(note, file=sys.stderr)
        if report is not None:
            from app.analysis.report import report_of  # noqa: PLC0415

            with written(report) as page:
                page.write(report_of(run, counts, notes).encode())
        if options.summary:
            _print_summary(counts, output, to)
    return 0


def checked(settings: Settings, options: ReplayOptions) -> Asked:
    """Check the options. Raises SettingsError with a line for each mistake."""
    *_, asked = all_of(
        lambda: check_output(options.output, options.to),
        lambda: _check_report(options),
        lambda: _check_question(settings, options),
        lambda: _check_rows(options),
        lambda: asked_for(
            settings,
            files=options.files,
            since=options.since,
            until=options.until,
            run_length=options.run_length,
            window_hours=options.window_hours,
            scenario=options.scenario or (),
            account=options.account,
            jobs=options.jobs,
            has_lengths=options.report is not None,
            has_places=options.against is not None,
        ),
    )
    return asked  # type: ignore[no-any-return]  # the last check's result


def _check_report(options: ReplayOptions) -> None:
    check_place("--report", options.report)
    if options.report is not None and options.against is not None:
        raise SettingsError(["--report: doesn't go with --against"])


def _check_question(settings: Settings, options: ReplayOptions) -> None:
    against, sms_price, wrong = options.against, options.sms_price, []
    if against not in (None, ContractTopic.NOTIFICATIONS.value, settings.topics.notifications):
        wrong.append(f"--against: can be {ContractTopic.NOTIFICATIONS.value} only")
    if against is not None and options.summary:
        wrong.append("--summary: doesn't go with --against")
    if sms_price is not None and not options.summary and options.report is None:
        wrong.append("--sms-price: goes with --summary or --report")
    if sms_price is not None and not math.isfinite(sms_price):
        wrong.append("--sms-price: must be a finite number")
    if wrong:
        raise SettingsError(wrong)


def _check_rows(options: ReplayOptions) -> None:
    """Refuse options for rows where there are none: a report alone is a page, and no rows. (Parquet
    needs --to anyhow.)"""
    has_rows = options.report is None or options.summary
    if not has_rows and (options.to is not None or options.output in {"csv", "table"}):
        raise SettingsError(
            ["--output, --to: beside --report they are for the rows of --summary: give it too"]
        )


def _print_commands(run: Replay, output: Format, to: Path | None) -> None:
    is_one = len(run.variants) == 1
    columns = COLUMNS if is_one else VARIANT_COLUMNS | COLUMNS
    with written(to) as out:
        rows = Rows(out, output, columns)
        with closing(run.commands()) as told:
            for number, command, _ in told:
                if is_one and output == "jsonl":
                    rows.put_json(command)
                    continue
                for _, variant in run.variants_of(number):
                    if output == "jsonl":
                        rows.put_json(with_variant(variant, command))
                    else:
                        head = () if is_one else (variant.run_length, variant.window_hours)
                        rows.put((*head, *row_of(command)))
        rows.end()


def _print_summary(counts: Summary, output: Format, to: Path | None) -> None:
    with written(to) as out:
        rows = Rows(out, output, SUMMARY_COLUMNS)
        for row in counts.rows():
            if output == "jsonl":
                rows.put_json(encode(dict(zip(SUMMARY_COLUMNS, row, strict=True))))
            else:
                rows.put(row)
        rows.end()


def _print_differences(run: Replay, output: Format, to: Path | None) -> None:
    is_one = len(run.variants) == 1
    columns = {**({} if is_one else VARIANT_COLUMNS), "difference": str, **COLUMNS}
    against = Against()
    try:
        for number, command, said in run.commands():
            against.add_told(number, said or decode_command(command), command)
        for record in run.sent():
            against.add_sent(record, run.asked.wanted)
        against.index()
        for number, variant in enumerate(run.variants):
            for line in _said_of(run, against, number):
                print(line if is_one else f"{variant}: {line}", file=sys.stderr)
        with written(to) as out:
            rows = Rows(out, output, columns)
            for number, variant in enumerate(run.variants):
                for difference, command in against.differences(number):
                    if output != "jsonl":
                        head = () if is_one else (variant.run_length, variant.window_hours)
                        rows.put((*head, difference, *row_of(command)))
                        continue
                    beside = b"" if is_one else beside_of(variant)
                    rows.put_json(
                        b'{%b"difference":"%b","command":%b}'
                        % (beside, difference.encode(), command)
                    )
            rows.end()
    finally:
        against.close()


def _said_of(run: Replay, against: Against, number: int) -> Iterator[str]:
    """Yield a line with the counts of differences, and lines with their reasons."""
    kinds = counted(against.differences(number))
    yield ", ".join(f"{kinds[kind]} {kind}" for kind in ("both", "only_replay", "only_sent"))
    seen = run.seen
    found = grounds(
        against.differences(number), seen.changed, seen.begun or 0, seen.line_places or {}
    )
    for why, count in found.most_common():
        yield f"{count} of the differences are {why}"

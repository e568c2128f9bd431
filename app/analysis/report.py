"""The report: the results of a replay as one HTML page that loads nothing from elsewhere."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.analysis import charts
from app.analysis.run import Replay
from app.analysis.summary import Summary
from app.analysis.variants import Variant
from streams.records import SCENARIOS
from streams.times import format_instant

_BINS = (1, 2, 3, 6, 11, 21, 51, 101, 1001)
_HOURLY_DAYS = 3
_MOST_LABELS = 12
_MOST_CHARTS = 24


def report_of(run: Replay, counts: Summary, notes: Sequence[str]) -> str:
    """Return the page. `notes`: sentences that a reader must know."""
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
    ).get_template("report.html")
    numbers = range(len(run.variants))
    days = sorted({day for number in numbers for day, _, _ in counts.by_day(number)})
    shown = [name for name in SCENARIOS if any(_told(counts, n)[name] for n in numbers)]
    scenarios = list(SCENARIOS)
    settings = run.asked.settings
    own = Variant(settings.run_length, float(settings.run_window_hours))
    return template.render(
        title=_title(days),
        subtitle=f"What dialwatch notices in {run.seen.records:,} records, {_variants(run)}.",
        is_part=not run.asked.wanted.is_all,
        tiles=_tiles(run, counts, own),
        notes=notes,
        scenarios=scenarios,
        shown=shown,
        price=counts.sms_price,
        table=[_row(run, counts, number, shown, own) for number in numbers],
        unit="hour" if len(days) <= _HOURLY_DAYS else "day",
        over_time=_over_time(run, counts, days),
        windows=_windows(run),
        lengths=_lengths(run),
        accounts=_accounts(run, counts),
        most_told=[
            {"name": str(run.variants[number]), "accounts": counts.most_told(number)[:10]}
            for number in numbers
        ],
        facts=_facts(run, own),
    )


def _title(days: Sequence[str]) -> str:
    if not days:
        return "Nothing to tell"
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _variants(run: Replay) -> str:
    if len(run.variants) == 1:
        return f"run length and window {run.variants[0]}"
    return f"under {len(run.variants)} variants"


def _told(counts: Summary, number: int) -> Counter[str]:
    told: Counter[str] = Counter()
    for (_, scenario, _), count in counts.by_day(number).items():
        told[scenario] += count
    return told


def _tiles(run: Replay, counts: Summary, own: Variant) -> list[dict[str, str]]:
    """Return the key figures of `own`, the variant of the settings or the first one."""
    number = run.variants.index(own) if own in run.variants else 0
    told = _told(counts, number)
    tiles = [
        (f"{counts.notifications(number):,}", "notifications"),
        (f"{len(counts.accounts(number)):,}", "accounts told"),
        (f"{told['unreachable_run']:,}", "of accounts not reaching anyone"),
        (f"{told['line_error_run']:,}", "of failing lines"),
        (f"{counts.sms(number):,}", "SMS"),
    ]
    cost = counts.cost(counts.sms(number))
    if cost is not None:
        tiles.append((f"￥{cost:,.2f}", "for SMS"))
    name = f" at {run.variants[number]}" if len(run.variants) > 1 else ""
    return [
        {"value": value, "name": what + (name if place == 0 else "")}
        for place, (value, what) in enumerate(tiles)
    ]


def _row(
    run: Replay, counts: Summary, number: int, shown: Sequence[str], own: Variant
) -> dict[str, Any]:
    told = _told(counts, number)
    sms, parts = counts.sms(number), counts.sms_parts(number)
    return {
        "name": str(run.variants[number]),
        "own": len(run.variants) > 1 and run.variants[number] == own,
        "notifications": f"{sum(told.values()):,}",
        "accounts": f"{len(counts.accounts(number)):,}",
        "scenarios": [f"{told[name]:,}" for name in shown],
        "sms": f"{sms:,}",
        "parts": f"{parts:,}",
        "cost": f"￥{counts.cost(sms) or 0:,.2f}",
        "cost_of_parts": f"￥{counts.cost(parts) or 0:,.2f}",
    }


def _over_time(run: Replay, counts: Summary, days: Sequence[str]) -> list[dict[str, str]]:
    is_hourly = len(days) <= _HOURLY_DAYS
    drawn: list[tuple[str, dict[str, dict[str, int]]]] = []
    for number, variant in enumerate(run.variants[:_MOST_CHARTS]):
        series: dict[str, dict[str, int]] = {name: {} for name in SCENARIOS}
        for (hour, scenario), count in counts.by_hour(number).items():
            bucket = hour if is_hourly else hour[:10]
            if scenario in series:
                series[scenario][bucket] = series[scenario].get(bucket, 0) + count
        drawn.append((str(variant), series))
    buckets = _filled(
        sorted({bucket for _, series in drawn for one in series.values() for bucket in one})
    )
    most = max(
        (sum(one.get(bucket, 0) for one in series.values())
         for _, series in drawn for bucket in buckets),
        default=0,
    )  # fmt: skip
    every = -(-len(buckets) // _MOST_LABELS) or 1
    labels = {bucket: _label(bucket) for bucket in buckets[::every]}
    return [
        {
            "name": name,
            "svg": charts.stacked_bars(
                buckets, series, labels=labels, most=most, title=f"Notifications over time, {name}"
            ),
        }
        for name, series in drawn
    ]


def _filled(buckets: Sequence[str]) -> list[str]:
    """Return all hours (`2026-11-24T09`) or days from the first to the last, so that the chart
    shows gaps. Where they are more than a thousand, return only those given."""
    if not buckets:
        return []
    form = "%Y-%m-%dT%H" if "T" in buckets[0] else "%Y-%m-%d"
    moments = [datetime.strptime(bucket, form) for bucket in buckets]  # noqa: DTZ007 (no instants)
    step = min((b - a for a, b in pairwise(moments)), default=None)
    unit = (datetime(2000, 1, 2) - datetime(2000, 1, 1)) / (24 if "T" in buckets[0] else 1)  # noqa: DTZ001
    if step is None or (moments[-1] - moments[0]) / unit > 1000:
        return list(buckets)
    count = (moments[-1] - moments[0]) // unit
    return [(moments[0] + unit * number).strftime(form) for number in range(count + 1)]


def _label(bucket: str) -> str:
    return f"{bucket[5:10]} {bucket[11:13]}h" if "T" in bucket else bucket[5:]


def _windows(run: Replay) -> list[str]:
    return list(dict.fromkeys(f"window {variant.hours} h" for variant in run.variants))


def _lengths(run: Replay) -> list[dict[str, str]]:
    marks = sorted({variant.run_length for variant in run.variants})
    lines = run.seen.line_lengths.end() if run.seen.line_lengths is not None else {}
    drawn = []
    for name, seen in (
        ("Accounts: results F in a row", run.seen.account_lengths),
        ("Lines: results W in a row", lines),
    ):
        curves: dict[str, dict[int, int]] = {
            f"window {variant.hours} h": seen.get(variant.window_hours, {})
            for variant in run.variants
        }
        drawn.append({"name": name, "svg": charts.survival(curves, marks, title=name)})
    return drawn


def _accounts(run: Replay, counts: Summary) -> str:
    names = [
        f"{begin:,}" if begin == end - 1 else f"{begin:,}–{end - 1:,}"
        for begin, end in pairwise(_BINS)
    ] + [f"{_BINS[-1]:,} and more"]
    series: dict[str, list[int]] = {}
    for number, variant in enumerate(run.variants):
        filled = [0] * len(_BINS)
        for count in counts.accounts(number).values():
            filled[sum(count >= begin for begin in _BINS) - 1] += 1
        series[str(variant)] = filled
    used = [place for filled in series.values() for place, count in enumerate(filled) if count]
    shown = slice(min(used, default=0), max(used, default=0) + 1)
    return charts.grouped_bars(
        names[shown],
        {name: filled[shown] for name, filled in series.items()},
        title="Accounts by number of messages",
    )


def _facts(run: Replay, own: Variant) -> list[tuple[str, str]]:
    settings, asked = run.asked.settings, run.asked
    wanted = asked.wanted
    span = run.span
    facts = [
        (
            "source",
            str(asked.files) if asked.files else f"Kafka, {run.topics.calls} and the others",
        ),
        ("records folded", f"{run.seen.records:,}: the whole history, all accounts"),
        ("invalid records", f"{run.seen.invalid:,}, those of accounts too"),
        ("variants", "; ".join(map(str, run.variants))),
        ("as set", str(own)),
        ("zone", settings.timezone),
        ("reminders at", f"{settings.reminder_time:%H:%M}"),
        ("expiry notice", f"{settings.expiry_notice_days} days"),
        ("batches remembered", f"{settings.batch_retention_days:g} days"),
    ]
    if wanted.since is not None:
        facts.append(("since", format_instant(wanted.since, settings.zone)))
    if wanted.until is not None:
        facts.append(("until", format_instant(wanted.until, settings.zone)))
    if wanted.scenarios:
        facts.append(("only", ", ".join(sorted(wanted.scenarios))))
    if wanted.account is not None:
        facts.append(("only account", wanted.account))
    if span is not None:
        begin, end = (format_instant(at, settings.zone)[:19] for at in span)
        facts.append(("records are from", f"{begin} to {end}"))
    made = datetime.now(settings.zone).isoformat(timespec="seconds")
    facts.append(("made", f"{made} by dialwatch {version('dialwatch')}"))
    return facts

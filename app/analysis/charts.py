"""Charts as inline SVG: values in, one `<svg>` out. The page's style sheet has colours and fonts.

Widths are in units of the view box, which the page scales. Every mark has its number as a tooltip.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDE, _NARROW = 1000, 500
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 30


def stacked_bars(
    buckets: Sequence[str],
    series: Mapping[str, Mapping[str, int]],
    *,
    labels: Mapping[str, str],
    most: int,
    height: int = 190,
    title: str,
) -> str:
    """Draw one bar for each bucket, with the series stacked. `series`: name (also the style class)
    → bucket → number; `labels`: bucket → the text below it; `most`: the highest bar of all charts
    that are compared, for one scale."""
    plot = _Plot(height, most)
    parts = plot.grid()
    step = plot.width / max(len(buckets), 1)
    wide = min(max(step * 0.78, 1.0), 64.0)
    for number, bucket in enumerate(buckets):
        x = _LEFT + step * number + (step - wide) / 2
        base = 0
        for name, counts in series.items():
            count = counts.get(bucket, 0)
            if not count:
                continue
            y, y_base = plot.y(base + count), plot.y(base)
            parts.append(
                f'<rect class="s-{name}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" '
                f'height="{max(y_base - y, 0.5):.1f}"><title>{escape(bucket)} · {escape(name)}: '
                f"{count:,}</title></rect>"
            )
            base += count
        if bucket in labels:
            parts.append(plot.below(x + wide / 2, labels[bucket]))
    return plot.svg(parts, title)


def grouped_bars(
    buckets: Sequence[str], series: Mapping[str, Sequence[int]], *, title: str, height: int = 220
) -> str:
    """Draw the series beside each other for each bucket. `series`: name → one number a bucket."""
    most = max((count for counts in series.values() for count in counts), default=0)
    plot = _Plot(height, most)
    parts = plot.grid()
    step = plot.width / max(len(buckets), 1)
    wide = min(step * 0.84 / max(len(series), 1), 48.0)
    for number, bucket in enumerate(buckets):
        begin = _LEFT + step * number + (step - wide * len(series)) / 2
        for place, (name, counts) in enumerate(series.items()):
            y = plot.y(counts[number])
            x = begin + wide * place
            parts.append(
                f'<rect class="v-{place % 8}" x="{x:.1f}" y="{y:.1f}" width="{wide * 0.92:.1f}" '
                f'height="{plot.y(0) - y:.1f}"><title>{escape(name)} · {escape(bucket)}: '
                f"{counts[number]:,}</title></rect>"
            )
            if counts[number] and wide >= 22:
                parts.append(
                    f'<text class="value" x="{x + wide * 0.46:.1f}" y="{y - 3:.1f}" '
                    f'text-anchor="middle">{counts[number]:,}</text>'
                )
        parts.append(plot.below(_LEFT + step * (number + 0.5), bucket))
    return plot.svg(parts, title)


def survival(
    curves: Mapping[str, Mapping[int, int]], marks: Sequence[int], *, title: str, height: int = 260
) -> str:
    """Draw how many runs reached each length or more, with logarithmic axes. `curves`: name →
    length → how many runs ended there; `marks`: lengths to highlight."""
    lines = {name: _reached(ended) for name, ended in curves.items()}
    longest = max([2, *marks, *(points[-1][0] for points in lines.values() if points)])
    most = max([1, *(points[0][1] for points in lines.values() if points)])
    plot = _Plot(height, most, is_log=True, whole=_NARROW)
    parts = plot.grid()
    scale = plot.width / math.log10(longest * 1.15)

    def x_of(length: float) -> float:
        return _LEFT + math.log10(length) * scale

    tick = 1
    while tick <= longest:
        for factor in (1, 2, 5):
            if tick * factor <= longest:
                parts.append(plot.below(x_of(tick * factor), f"{tick * factor:,}"))
        tick *= 10
    for mark in marks:
        x = x_of(mark)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{plot.y(0):.1f}"/>'
        )
    for place, (name, points) in enumerate(lines.items()):
        if not points:
            continue
        path = f"{x_of(points[0][0]):.1f},{plot.y(points[0][1]):.1f}" + "".join(
            f"V{plot.y(count):.1f}H{x_of(length):.1f}" for length, count in points[1:]
        )
        parts.append(
            f'<path class="l-{place % 8}" d="M{path}"><title>{escape(name)}</title></path>'
        )
        for mark in marks:
            count = next((count for length, count in points if length >= mark), 0)
            x, y = x_of(mark), plot.y(count)
            parts.append(
                f'<circle class="v-{place % 8}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>'
                f"{escape(name)}: {count:,} runs of {mark:,} or more</title></circle>"
            )
            if place == 0:
                parts.append(
                    f'<text class="value" x="{x + 7:.1f}" y="{y - 6:.1f}">{count:,}</text>'
                )
    return plot.svg(parts, title)


def _reached(ended: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return (length, how many runs reached it) for each length at which a run ended."""
    points = []
    left = sum(ended.values())
    for length in sorted(ended):
        points.append((length, left))
        left -= ended[length]
    return points


class _Plot:
    """A plot with its axes, from 0 to the highest value."""

    def __init__(self, height: int, most: int, *, is_log: bool = False, whole: int = _WIDE) -> None:
        self._whole = whole
        self.width = whole - _LEFT - _RIGHT
        self._height = height
        self._inner = height - _TOP - _BOTTOM
        self._is_log = is_log
        self._ticks = _decades(most) if is_log else _steps(most)
        self._top = self._ticks[-1]

    def y(self, value: float) -> float:
        """Return a value's y coordinate."""
        if self._is_log:  # the lowest decade is for 0
            share = (
                0.0 if value < 1 else (math.log10(value) + 0.35) / (math.log10(self._top) + 0.35)
            )
        else:
            share = value / self._top
        return _TOP + self._inner * (1 - share)

    def grid(self) -> list[str]:
        """Draw the grid behind the marks."""
        parts = []
        for tick in self._ticks:
            y = self.y(tick)
            end = self._whole - _RIGHT
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,}</text>'
            )
        return parts

    def below(self, x: float, label: str) -> str:
        """Write a label below the plot."""
        return (
            f'<text x="{x:.1f}" y="{self._height - 8}" text-anchor="middle">{escape(label)}</text>'
        )

    def svg(self, parts: Sequence[str], title: str) -> str:
        """Return the whole chart."""
        return (
            f'<svg viewBox="0 0 {self._whole} {self._height}" role="img" '
            f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
        )


def _steps(most: int) -> list[int]:
    """Return round numbers from 0 up to at least `most`."""
    if most <= 4:
        return list(range(max(most, 1) + 1))
    raw = most / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= raw)
    step = max(step, 1)
    return list(range(0, most + step, step)) if most % step else list(range(0, most + 1, step))


def _decades(most: int) -> list[int]:
    decades = [1]
    while decades[-1] < most:
        decades.append(decades[-1] * 10)
    return decades

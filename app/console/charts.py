"""Small charts as SVG, drawn by the server: they need no JavaScript and no inline styles."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 72
_ORDER = ("sent", "delivered", "skipped", "undelivered", "failed")


def bars(points: Sequence[dict[str, Any]], label: str, none: str) -> Markup:
    """Return stacked bars; a point is `{"at", "statuses": {status: count}}`, oldest first. `none`:
    the text where there are no points."""
    totals = [sum(point["statuses"].values()) for point in points]
    most = max(totals, default=0)
    if not most:
        return _empty(label, none)
    step = WIDTH / len(points)
    parts = []
    for place, point in enumerate(points):
        top = float(HEIGHT)
        for status in sorted(point["statuses"], key=_rank):
            height = (HEIGHT - 2) * point["statuses"][status] / most
            top -= height
            parts.append(
                f'<rect class="c-{escape(status)}" x="{place * step + 0.5:.1f}" y="{top:.1f}" '
                f'width="{step - 1:.1f}" height="{max(height, 0.8):.1f}"/>'
            )
        if point["statuses"]:
            said = ", ".join(f"{name} {count:,}" for name, count in point["statuses"].items())
            parts.append(
                f'<rect class="hit" x="{place * step:.1f}" y="0" width="{step:.1f}" '
                f'height="{HEIGHT}"><title>{escape(_clock(point["at"]))} · {escape(said)}</title>'
                "</rect>"
            )
    return _svg(label, most, "".join(parts))


def steps(points: Sequence[dict[str, Any]], label: str, none: str) -> Markup:
    """Return a line chart with its area; a point is `{"at", "lag"}`. A lag of null makes a gap."""
    lags = [point["lag"] for point in points]
    if all(lag is None for lag in lags):
        return _empty(label, none)
    most = max([lag for lag in lags if lag is not None] + [1])
    step = WIDTH / max(len(points) - 1, 1)
    pieces: list[list[tuple[float, float]]] = [[]]
    for place, lag in enumerate(lags):
        if lag is None:
            pieces.append([])
        else:
            pieces[-1].append((place * step, HEIGHT - 1.5 - (HEIGHT - 4) * lag / most))
    parts = []
    for piece in filter(None, pieces):
        if len(piece) == 1:
            piece.insert(0, (piece[0][0] - 3, piece[0][1]))
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
        area = f"{piece[0][0]:.1f},{HEIGHT} {line} {piece[-1][0]:.1f},{HEIGHT}"
        parts.append(f'<polygon class="area" points="{area}"/><polyline points="{line}"/>')
    return _svg(label, max(lag or 0 for lag in lags), "".join(parts))


def peak(points: Sequence[dict[str, Any]]) -> int:
    """Return the highest value among a chart's points."""
    values = [
        sum(one["statuses"].values()) if "statuses" in one else one["lag"] or 0 for one in points
    ]
    return max(values, default=0)


def _svg(label: str, most: int, inside: str) -> Markup:
    said = escape(f"{label}, max {most:,}")
    return Markup(  # noqa: S704 (numbers and what was escaped)
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}">{inside}</svg>'
    )


def _empty(label: str, none: str) -> Markup:
    return Markup('<p class="chart empty" role="img" aria-label="{}: {}">{}</p>').format(
        label, none, none
    )


def _rank(status: str) -> int:
    return _ORDER.index(status) if status in _ORDER else len(_ORDER)


def _clock(text: str) -> str:
    return text[5:16].replace("T", " ")

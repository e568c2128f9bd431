"""The last minutes of one worker, for the page: how fast it folds and how its lag went.

Plain numbers, sampled by the web server; what they mean is known to `view.py`.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

SAMPLE_SECONDS = 2.0
KEPT = 150
RATE_SECONDS = 30.0


class Sample(NamedTuple):
    """How things stood at one moment of the monotonic clock."""

    at: float
    folded: Mapping[str, float]
    """Records since the start, by topic."""
    lag: Mapping[str, int]
    """Records behind, by topic."""


class History:
    """Some five minutes of samples; older ones are forgotten."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    def per_second(self, topic: str) -> float | None:
        """Return how many records a second were folded of late; None: it isn't known yet."""
        if len(self._samples) < 2:
            return None
        last = self._samples[-1]
        first = next(one for one in self._samples if last.at - one.at <= RATE_SECONDS)
        seconds = last.at - first.at
        if seconds <= 0:
            return None
        return (last.folded.get(topic, 0.0) - first.folded.get(topic, 0.0)) / seconds

    def lags(self, topic: str) -> list[int]:
        """Return the records behind, oldest first."""
        return [sample.lag.get(topic, 0) for sample in self._samples]


def sparkline(values: list[int], width: int = 120, height: int = 20) -> str:
    """Return the points of an SVG polyline, newest at the right; empty where nothing moved."""
    most = max(values, default=0)
    if not most:
        return ""
    step = width / (KEPT - 1)
    left = width - step * (len(values) - 1)
    return " ".join(
        f"{left + step * place:.1f},{height - 1 - (height - 2) * value / most:.1f}"
        for place, value in enumerate(values)
    )

"""The last minutes of one worker, for its page: how fast it folds, and its lag.

The web server takes the samples, which are plain numbers; `view.py` knows what they mean.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

SAMPLE_SECONDS = 2.0
KEPT = 150
RATE_SECONDS = 30.0


class Sample(NamedTuple):
    """The numbers at one moment of the monotonic clock."""

    at: float
    folded: Mapping[str, float]
    """Topic → records folded since the start."""
    lag: Mapping[str, int]
    """Topic → records not folded yet."""


class History:
    """The samples of about five minutes; older ones are dropped."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    def per_second(self, topic: str) -> float | None:
        """Return how many records a second were folded lately; None: unknown yet."""
        if len(self._samples) < 2:
            return None
        last = self._samples[-1]
        first = next(one for one in self._samples if last.at - one.at <= RATE_SECONDS)
        seconds = last.at - first.at
        if seconds <= 0:
            return None
        return (last.folded.get(topic, 0.0) - first.folded.get(topic, 0.0)) / seconds

    def lags(self, topic: str) -> list[int]:
        """Return the samples of a topic's lag, oldest first."""
        return [sample.lag.get(topic, 0) for sample in self._samples]


def sparkline(values: list[int], width: int = 120, height: int = 20) -> str:
    """Return the points of an SVG polyline, newest at the right; empty: all values are 0."""
    most = max(values, default=0)
    if not most:
        return ""
    step = width / (KEPT - 1)
    left = width - step * (len(values) - 1)
    return " ".join(
        f"{left + step * place:.1f},{height - 1 - (height - 2) * value / most:.1f}"
        for place, value in enumerate(values)
    )

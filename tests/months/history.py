"""Months of records: legs of calls, days apart, and between them days on which only ticks come."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

from tests.faults.history import ZONE, Event, History

BEGAN = datetime(2019, 1, 7, 10, 0, tzinfo=ZONE)
SHORT_REST, LONG_RESTS = 1, (10, 31)
"""Days. After a short one runs and batches go on; after a long one all of them are over."""


class Months(History):
    """Legs without an end. A long rest follows a short one, as accounts deleted then come back."""

    def __init__(self, rng: random.Random, partitions: int) -> None:
        super().__init__(rng, partitions)
        self.now = BEGAN
        self.legs = 0

    def next_leg(self) -> Iterator[list[Event]]:
        """Yield what is published before the next leg; each part when all before it is over."""
        leg, self.legs = self.legs, self.legs + 1
        if leg < 2:
            yield from self.before_leg(leg)
        elif leg % 2:
            yield from self.before_leg(1)
        else:
            # The last day is the leg's own.
            days = self.rng.choice(LONG_RESTS)
            yield self._days(days - 10)
            yield from self.before_leg(2)

    def _days(self, count: int) -> list[Event]:
        """Ticks of days on which nothing else happens, some a day."""
        made: list[Event] = []
        for _ in range(count):
            self.now += timedelta(days=1)
            for hour in (1, 9, 17):
                made += self._ticks(self.now.replace(hour=hour, minute=10))
        return self._all(made)

"""Counting refusals in a row: some kinds are known to stop by themselves."""

import asyncio

# Longer than the hold that follows, so that refusals of its probes still count as in a row.
REMEMBERED_SECONDS = 3600.0
# Longer than it takes until messages sent together are answered, shorter than the pause between two
# tries.
APART_SECONDS = 15.0


class Refusals:
    """Counts refusals in a row, by what was refused. Uses the event loop's clock."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}

    def count(self, what: str) -> int:
        """Count a refusal; return how many there were in a row. Those at one moment count once."""
        now = asyncio.get_running_loop().time()
        number, last = self._counts.get(what, (0, 0.0))
        if number == 0 or now - last >= APART_SECONDS:
            number, last = number + 1, now
        self._counts[what] = (number, last)
        return number

    def forget(self, what: str) -> None:
        """Note that it was accepted: the count starts again."""
        self._counts.pop(what, None)


class Restricted:
    """Counts recipients that were refused in a row: if they are many, the cause isn't theirs.

    Each is remembered for an hour. Uses the event loop's clock.
    """

    def __init__(self) -> None:
        self._met: dict[str, float] = {}

    def count(self, recipient: str) -> int:
        """Count a refused recipient; return how many different ones there were in a row."""
        now = asyncio.get_running_loop().time()
        self._met = {one: at for one, at in self._met.items() if now - at < REMEMBERED_SECONDS}
        self._met[recipient] = now
        return len(self._met)

    def forget(self) -> None:
        """Note that a message was accepted: the count starts again."""
        self._met.clear()

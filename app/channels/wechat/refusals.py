"""How often in a row something was refused: some refusals are known to pass by themselves."""

import asyncio

# Longer than the hold that follows, so that its probes are told the same.
REMEMBERED_SECONDS = 3600.0
# Longer than messages under way together are answered, shorter than the pause between two tries.
APART_SECONDS = 15.0


class Refusals:
    """Refusals in a row, by what was refused. Goes by the event loop's clock."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}

    def count(self, what: str) -> int:
        """Count a refusal and return how many there were; those of one moment are one."""
        now = asyncio.get_running_loop().time()
        number, last = self._counts.get(what, (0, 0.0))
        if number == 0 or now - last >= APART_SECONDS:
            number, last = number + 1, now
        self._counts[what] = (number, last)
        return number

    def forget(self, what: str) -> None:
        """It was taken."""
        self._counts.pop(what, None)


class Restricted:
    """Recipients refused in a row, since somebody was taken: many of them are not their trouble.

    Each is remembered for an hour. Goes by the event loop's clock.
    """

    def __init__(self) -> None:
        self._met: dict[str, float] = {}

    def count(self, recipient: str) -> int:
        """Count a recipient and return how many different ones there were."""
        now = asyncio.get_running_loop().time()
        self._met = {one: at for one, at in self._met.items() if now - at < REMEMBERED_SECONDS}
        self._met[recipient] = now
        return len(self._met)

    def forget(self) -> None:
        """Somebody was taken."""
        self._met.clear()

"""How often in a row something was refused: some refusals are known to pass by themselves."""

import asyncio

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

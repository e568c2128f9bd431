"""Waiting for Redis: while it is away nothing is lost, and one request at a time asks for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from agents.channel import StoreAwayError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

# Fewer than the client has connections: the web server asks too.
MOST_AT_ONCE = 16
FIRST_PAUSE_SECONDS = 0.2
MOST_PAUSE_SECONDS = 3.0


class Patience:
    """Asks Redis until it answers. While it is away one caller asks, and the others wait for it."""

    def __init__(self, what_waits: str, random: Callable[[], float]) -> None:
        """`what_waits`: what the log says is waiting, such as `sending by sms`."""
        self._what_waits = what_waits
        self._random = random
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._back = asyncio.Event()
        self._back.set()
        self.is_away = False

    async def ask(
        self,
        question: Callable[[], Awaitable[_Answer]],
        *,
        late: Callable[[], Awaitable[_Answer]] | None = None,
    ) -> _Answer:
        """Return Redis's answer, however long it takes. `late` is asked in place of `question` once
        that had to wait until Redis was back, or failed."""
        while True:
            if not self._back.is_set():
                question = late or question
                await self._back.wait()
            async with self._slots:
                if not self._back.is_set():
                    continue
                try:
                    answer = await question()
                except StoreAwayError as error:
                    if not self._back.is_set():
                        continue
                    self._back.clear()
                    self._note_away(error)
                else:
                    # Who asked again for all may have been cancelled before it was back.
                    self._note_back()
                    return answer
            # Whoever finds the store away first asks again for all.
            try:
                return await self._ask_until_back(late or question)
            finally:
                self._back.set()

    async def _ask_until_back(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer:
        pause_s = FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause_s * (0.75 + self._random() / 2))
            pause_s = min(MOST_PAUSE_SECONDS, pause_s * 2)
            with suppress(StoreAwayError):
                answer = await question()
                self._note_back()
                return answer

    def _note_away(self, error: StoreAwayError) -> None:
        if not self.is_away:
            self.is_away = True
            log.warning("%s: %s waits until it is back", error, self._what_waits)

    def _note_back(self) -> None:
        if self.is_away:
            self.is_away = False
            log.info("the store is back: %s goes on", self._what_waits)

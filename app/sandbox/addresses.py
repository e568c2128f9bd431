"""The list of allowed IPs in WeChat's console, and the administrator who allows an address."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Mode = Literal["open", "unlisted", "ask"]
_HOUR, _DAY = 3600.0, 86_400.0


@dataclass
class Addresses:
    """The allowed addresses. `open`: all. `unlisted`: none. `ask`: the administrator decides."""

    now: Callable[[], float]
    mode: Mode = "open"
    is_asked: bool = False
    refusals: int = 0
    refused_until: float = 0.0

    def error(self) -> int:
        """Return the errcode for a request for a token; 0: it is allowed."""
        if self.mode == "open":
            return 0
        if self.mode == "unlisted":
            return 40164
        if self.now() < self.refused_until:
            return 89507 if self.refusals == 1 else 89506
        if self.is_asked:
            return 89501
        self.is_asked = True
        return 89503

    def set(self, mode: Mode) -> None:
        self.mode, self.is_asked, self.refusals, self.refused_until = mode, False, 0, 0.0

    def answer(self, *, approves: bool) -> None:
        """Note the administrator's decision. One refusal lasts an hour, a second one a day."""
        if approves:
            self.set("open")
            return
        self.is_asked = False
        self.refusals += 1
        self.refused_until = self.now() + (_HOUR if self.refusals == 1 else _DAY)

"""What stops a command, and with which exit code.

Each carries text for people: what is wrong and what to do about it, without a secret. The
command line prints it in place of a traceback.

    CommandError                exit 1, one line
    ├── KafkaAwayError          no broker answers
    ├── RedisAwayError          no Redis answers
    └── WrongTopicsError        topics stand in a way that dialwatch can't work on
    SettingsError               exit 2, one line for each wrong variable or flag
"""

from collections.abc import Callable, Sequence
from typing import Any


class CommandError(Exception):
    """A failure that stops a command. Its text is one line that says what to do."""


class KafkaAwayError(CommandError):
    """No broker answered in time, or it answered only to refuse us."""


class RedisAwayError(CommandError):
    """Redis didn't answer in time, or it answered only to refuse us."""


class WrongTopicsError(CommandError):
    """Topics have numbers of partitions, or a clean-up policy, that would lose or mix records."""


class SettingsError(Exception):
    """Variables or flags are wrong: `lines` has one for each of them."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def all_of(*checks: Callable[[], Any]) -> list[Any]:
    """Make every check and return what they return. Raises SettingsError, with the lines of all
    that fail."""
    found: list[Any] = []
    wrong: list[str] = []
    for check in checks:
        try:
            found.append(check())
        except SettingsError as error:
            wrong += error.lines
    if wrong:
        raise SettingsError(wrong)
    return found

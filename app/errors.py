"""The errors that end a command, with their exit codes.

Each has a text for people: what is wrong and what to do about it, without secrets. The command line
prints it instead of a traceback.

    CommandError                exit 1, one line
    ├── KafkaAwayError          no broker answers
    ├── RedisAwayError          no Redis answers
    └── WrongTopicsError        topics stand in a way that dialwatch can't work on
    SettingsError               exit 2, one line for each wrong variable or flag
"""

from collections.abc import Callable, Sequence
from typing import Any


class CommandError(Exception):
    """A failure that ends a command. Its text is one line that says what to do."""


class KafkaAwayError(CommandError):
    """No broker answered in time, or the broker refused the connection."""


class RedisAwayError(CommandError):
    """Redis didn't answer in time, or it refused the connection."""


class WrongTopicsError(CommandError):
    """Topics have numbers of partitions or a clean-up policy with which records would be lost or
    mixed up."""


class SettingsError(Exception):
    """Variables or flags are wrong: `lines` has one for each of them."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def all_of(*checks: Callable[[], Any]) -> list[Any]:
    """Call every check; return their results. Raises SettingsError with the lines of all checks
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

"""Traces, where somebody switched them on: which records carry them, and who hears of each step.

Off, as usual: nothing is asked for a record, no header is written, and OpenTelemetry, of which
only `app/trace_export.py` knows, is not even imported.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

Headers = list[tuple[str, bytes]]

TRACEPARENT = "traceparent"
"""The header of a record that says which trace it belongs to, as W3C writes it."""

parent: ContextVar[bytes | None] = ContextVar("traceparent", default=None)
"""Of the command that this task sends."""


def traceparent_of(headers: Iterable[tuple[str, bytes]]) -> bytes | None:
    """Return what a record's headers say of its trace; None: nothing."""
    return dict(headers).get(TRACEPARENT)


class Request(Protocol):
    """A request to a provider that goes on."""

    headers: dict[str, str]
    """To be sent with it."""

    def answered(self, status: int) -> None:
        """Note the HTTP status."""


class Traces(Protocol):
    """Whoever is told."""

    def noticed(
        self,
        notification_id: str,
        scenario: str,
        channel: str,
        *,
        cause: str,
        caused_by: bytes | None,
        now: int,
    ) -> Headers:
        """Return the headers of a command. The same again for the same: a cycle may be folded
        twice. `cause`: the record's name; `caused_by`: its traceparent; `now`: an instant."""

    def request(self, channel: str) -> AbstractContextManager[Request]:
        """A request of the command whose traceparent `parent` holds."""


_on: Traces | None = None


def switch(traces: Traces | None) -> None:
    """Switch traces on, or off again, for this process."""
    global _on  # noqa: PLW0603 (as the metrics are)
    _on = traces


def on() -> Traces | None:
    """Return who is told; None: traces are off."""
    return _on

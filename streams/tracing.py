"""Traces: the record header that carries them, and the interface of what records the steps.

Traces are off by default: then no header is written, and OpenTelemetry, which only
`app/trace_export.py` uses, isn't imported.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

from streams.engine.types import Header

Headers = list[Header]

TRACEPARENT = "traceparent"
"""The record header with the trace that the record belongs to, in W3C's format."""

parent: ContextVar[bytes | None] = ContextVar("traceparent", default=None)
"""The traceparent of the command that the current task sends."""


def traceparent_of(headers: Iterable[Header]) -> bytes | None:
    """Return the traceparent in a record's headers; None: there is none."""
    return dict(headers).get(TRACEPARENT)


class Request(Protocol):
    """A request to a provider that is under way."""

    headers: dict[str, str]
    """The HTTP headers to send with it."""

    def answered(self, status: int) -> None:
        """Note the HTTP status."""


class Traces(Protocol):
    """Records the steps; see `app/trace_export.py`."""

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
        """Record that a command was emitted; return its headers. Deterministic, because a cycle may
        be folded twice. `cause`: the name of the record that caused it; `caused_by`: that record's
        traceparent; `now`: an instant."""

    def request(self, channel: str) -> AbstractContextManager[Request]:
        """Return the context of a request for the command whose traceparent is in `parent`."""


_on: Traces | None = None


def switch(traces: Traces | None) -> None:
    """Switch traces on for this process; None: off."""
    global _on  # noqa: PLW0603 (as the metrics are)
    _on = traces


def on() -> Traces | None:
    """Return what records the steps; None: traces are off."""
    return _on

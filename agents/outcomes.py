"""What one attempt to deliver can come to. Channels return these; the send agent acts on them.

Values, not exceptions: an exception from a channel is a bug.
"""

from msgspec import Struct


class Sent(Struct, frozen=True):
    """The provider took it."""

    provider_id: str | None = None


class Skipped(Struct, frozen=True):
    """Nothing to send to, or nothing to send with; `reason` says which (`no openid`, …)."""

    reason: str


class Refused(Struct, frozen=True):
    """The provider said no, for good, to this message."""

    error: str
    error_code: int | None = None


class TryLater(Struct, frozen=True):
    """The provider did not take it; the same again is safe after `after_s` (None: back off)."""

    error: str
    after_s: float | None = None
    error_code: int | None = None
    most_tries: int | None = None
    """Attempts after which the agent gives up; None: many, and only while others get through."""
    is_general: bool = False
    """Anybody may be told so at this moment (an overload): tries count only while others get
    through, and while nobody does the channel is on hold."""
    is_recipients: bool = False
    """The recipient takes no more for `after_s`: whatever waits for the same one waits too, and is
    given up with it."""


class Unclear(Struct, frozen=True):
    """Nobody knows whether the provider took it: a timeout, a broken answer, a 5xx."""

    error: str
    error_code: int | None = None


class Held(Struct, frozen=True):
    """The whole channel must wait `for_s` seconds (a quota, a wrong secret): not this message's
    fault, so it is no attempt of the message."""

    reason: str
    for_s: float
    error_code: int | None = None
    scope: str | None = None
    """Only messages of this scope (a template) must wait; None: all."""


Outcome = Sent | Skipped | Refused | TryLater | Unclear | Held

"""The possible outcomes of one attempt to deliver. Channels return them, the sender acts on them.

Values, not exceptions: an exception from a channel is a bug.
"""

from msgspec import Struct


class Sent(Struct, frozen=True):
    """The provider accepted the message."""

    provider_id: str | None = None


class Skipped(Struct, frozen=True):
    """There is no address to send to, or nothing to send with; `reason` says which."""

    reason: str


class Refused(Struct, frozen=True):
    """The provider rejected this message for good."""

    error: str
    error_code: int | None = None


class TryLater(Struct, frozen=True):
    """The provider did not accept it; repeating it is safe after `after_s` (None: back off)."""

    error: str
    after_s: float | None = None
    error_code: int | None = None
    most_tries: int | None = None
    """Attempts after which the agent gives up; None: many, and only while others get through."""
    is_general: bool = False
    """Any message may get this answer now (an overload): tries count only while other messages
    succeed, and while none does the channel is on hold."""
    is_recipients: bool = False
    """The recipient is limited for `after_s`: its other messages wait too, and are given up with
    this one."""


class Unclear(Struct, frozen=True):
    """It is unknown whether the provider accepted it: a timeout, a broken answer, a 5xx."""

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
    is_stale: bool = False
    """What it was sent with (a token) is no longer good. It goes again at once, with what the
    channel's `ready` renews; only who is told so twice in a row makes everybody wait."""


Outcome = Sent | Skipped | Refused | TryLater | Unclear | Held

"""Faults of the stand-in, on demand: they hit a share of requests, chosen by a seed."""

import random
from typing import Literal

from msgspec import Struct

DuplicateReply = Literal["ok_same_msgid", "ok_new_msgid", "error_40241"]


class Faults(Struct, kw_only=True, forbid_unknown_fields=True):
    """The faults in force. A share is the part, 0 to 1, of the requests to send that it hits."""

    busy: float = 0.0
    """The answer is -1, and nothing is accepted."""
    drop_after_accept: float = 0.0
    """The message is accepted, and the connection breaks before the answer."""
    hang_after_accept: float = 0.0
    """The message is accepted, and no answer comes for `hang_s`, so that the client gives up."""
    hang_s: float = 60.0
    reset: float = 0.0
    """The connection breaks and nothing is accepted."""
    http_500: float = 0.0
    http_429: float = 0.0
    truncated: float = 0.0
    """The message is accepted, and the answer's JSON is cut off."""
    answer: int | None = None
    """Every request to send is answered with this errcode."""
    is_away: bool = False
    """Every request of every kind gets HTTP 503."""
    latency_s: float = 0.0
    token_answer: int | None = None
    """Every request for a token is answered with this errcode."""
    token_hangs: bool = False
    """No request for a token is answered for `hang_s`."""
    duplicate_reply: DuplicateReply = "ok_same_msgid"
    """The answer to a repeated client_msg_id, which the documentation doesn't tell."""
    callback_share: float = 1.0
    """The share of accepted messages that get a TEMPLATESENDJOBFINISH."""
    callback_status: str = "success"
    callback_before_answer: bool = False
    callback_twice: float = 0.0
    callback_delay_s: float = 0.0
    """The longest time until this event; each one's is random, so that they overtake each other."""
    callback_msgid: Literal["msgid", "zero"] = "msgid"
    """One user saw MsgID 0 in the events of messages that had a client_msg_id."""


class Dice:
    """Draws which faults a request gets. The same seed and requests give the same faults."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def hits(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def part(self, whole: float) -> float:
        """Return a random number between 0 and `whole`."""
        return self._random.random() * whole

    def msgid(self) -> int:
        """Return a msgid like WeChat's: above 2^53, where careless JSON readers lose digits."""
        return self._random.randrange(2**61, 2**62)

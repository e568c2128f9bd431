"""What goes wrong in the stand-in, on demand: shares of requests, drawn from one seed."""

import random
from typing import Literal

from msgspec import Struct

DuplicateReply = Literal["ok_same_msgid", "ok_new_msgid", "error_40241"]


class Faults(Struct, kw_only=True, forbid_unknown_fields=True):
    """Shares are between 0 and 1, of all requests to send; 0: never."""

    busy: float = 0.0
    """Answered with -1; nothing is accepted."""
    drop_after_accept: float = 0.0
    """Accepted, and the connection breaks before the answer."""
    hang_after_accept: float = 0.0
    """Accepted, and no answer comes for `hang_s`: the client's time runs out."""
    hang_s: float = 60.0
    reset: float = 0.0
    """The connection breaks and nothing is accepted."""
    http_500: float = 0.0
    http_429: float = 0.0
    truncated: float = 0.0
    """Accepted; the answer's JSON is cut off."""
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
    """How a repeated client_msg_id is answered: the documentation doesn't say."""
    callback_share: float = 1.0
    """Of accepted messages, how many get their TEMPLATESENDJOBFINISH."""
    callback_status: str = "success"
    callback_before_answer: bool = False
    callback_twice: float = 0.0
    callback_delay_s: float = 0.0
    """Up to so long after the message, each another time: they overtake each other."""
    callback_msgid: Literal["msgid", "zero"] = "msgid"
    """One user saw MsgID 0 in the events of messages that had a client_msg_id."""


class Dice:
    """Draws what happens to a request. The same seed and requests give the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def hits(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def part(self, whole: float) -> float:
        """Return something between 0 and the whole."""
        return self._random.random() * whole

    def msgid(self) -> int:
        """A msgid as WeChat's are: above 2^53, where careless readers lose digits."""
        return self._random.randrange(2**61, 2**62)

"""What WeChat does in each situation, once as it is documented and once in the stand-in.

Each case is played three times (see `test_contract.py`): the client against the documented
answer, the client against the stand-in, and the stand-in's own answer beside the documented one.
So neither can drift from the other, nor both from the documentation together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents.outcomes import Held, Outcome, Refused, Sent, TryLater, Unclear
from app.sandbox.faults import Faults
from app.sandbox.quotas import QuotaLimits
from app.sandbox.server import TEMPLATE_ID, Sandbox

RID = " rid: 5f6c1f1e-2d5e9a3b-1c7d8e9f"
UNKNOWN_TEMPLATE = TEMPLATE_ID[::-1]


def error(code: int, text: str) -> dict[str, Any]:
    """Return an errcode as WeChat answers it."""
    return {"errcode": code, "errmsg": text + RID}


@dataclass(frozen=True)
class Case:
    """One situation."""

    name: str
    documented: dict[str, Any]
    """The body of the documented answer; HTTP 200 always."""
    outcome: Outcome
    """What our channel makes of it. Texts are compared only where they aren't empty."""
    arrange: Callable[[Sandbox], object] = lambda sandbox: None
    """What makes the stand-in answer so."""
    message: dict[str, Any] = field(default_factory=dict)
    """What the message has instead of the usual."""
    sent_before: int = 0
    """Messages of the same openid and content, under other ids."""
    arrives: bool = False
    token_only: bool = False
    """The answer is the token endpoint's."""


def _faults(**faults: Any) -> Callable[[Sandbox], object]:
    return lambda sandbox: setattr(sandbox, "faults", Faults(**faults))


def _limits(**limits: Any) -> Callable[[Sandbox], object]:
    return lambda sandbox: setattr(sandbox.wechat.quotas, "limits", QuotaLimits(**limits))


OPENID = "o-customer"
_TOKEN_HELD = 60.0
CASES = [
    Case(
        "taken",
        {"errcode": 0, "errmsg": "ok", "msgid": 3487542469355618313},
        Sent("*"),
        arrives=True,
    ),
    Case(
        "busy",
        error(-1, "system error"),
        TryLater("system error", None, -1, 5, is_general=True),
        _faults(busy=1.0),
    ),
    Case(
        "openid of another account",
        error(40003, "invalid openid"),
        TryLater("", 60, 40003, 2),
        message={"touser": "?"},
    ),
    Case(
        "template id too short",
        error(40036, "invalid template_id size"),
        TryLater("", 20, 40036, 4),
        message={"template_id": "T"},
    ),
    Case(
        "unknown template",
        error(40037, "invalid template_id"),
        TryLater("", 20, 40037, 4),
        message={"template_id": UNKNOWN_TEMPLATE},
    ),
    Case(
        "address too long",
        error(40039, "invalid url size"),
        Refused("", 40039),
        message={"url": "https://x.example/" + "x" * 2000},
    ),
    Case(
        "illegal content",
        error(40249, "the content is blocked"),
        Refused("", 40249),
        lambda s: s.wechat.blocked_words.add("任务"),
    ),
    Case(
        "no follower",
        error(43004, "require subscribe"),
        Refused("", 43004),
        lambda s: s.wechat.strangers.add(OPENID),
    ),
    Case(
        "refused by the customer",
        error(43101, "user refuse to accept the msg"),
        Refused("", 43101),
        lambda s: s.wechat.refusing.add((OPENID, TEMPLATE_ID)),
    ),
    Case(
        "restricted template",
        error(43116, "this template is restricted"),
        Held("", 60, 43116, TEMPLATE_ID),
        lambda s: s.wechat.banned.add(TEMPLATE_ID),
    ),
    Case(
        "too often to one openid",
        error(43117, "send to this user too frequently"),
        TryLater("", 3600, 43117, 2, is_recipients=True),
        _limits(per_recipient=2),
        sent_before=2,
    ),
    Case(
        "the same within a minute",
        error(40241, "message is duplicate in 60 seconds"),
        TryLater("", 61, 40241, 2),
        _limits(duplicate_s=60.0),
        sent_before=1,
    ),
    Case(
        "the day's quota",
        error(45009, "reach max api daily quota limit"),
        Held("", 60, 45009),
        _limits(daily=3),
        sent_before=3,
    ),
    Case(
        "a field of the wrong kind",
        error(47003, "argument invalid! data.phrase1.value invalid"),
        Refused("argument invalid! data.phrase1.value invalid", 47003),
        message={"data": {"phrase1": {"value": "六个字的短语"}}},
    ),
    Case("no object", error(47001, "data format error"), Refused("", 47001), message={"data": "x"}),
    Case(
        "not granted", error(48001, "api unauthorized"), Held("", 60, 48001), _faults(answer=48001)
    ),
    Case("banned", error(48004, "error"), Held("", 600, 48004), _faults(answer=48004)),
    Case("unheard of", error(61234, "error"), TryLater("", None, 61234, 3), _faults(answer=61234)),
    Case(
        "wrong secret",
        error(40125, "invalid appsecret"),
        Held("", _TOKEN_HELD, 40125),
        _faults(token_answer=40125),
        token_only=True,
    ),
    Case(
        "unlisted address",
        error(40164, "invalid ip 127.0.0.1, not in whitelist"),
        Held("", _TOKEN_HELD, 40164),
        lambda s: s.addresses.set("unlisted"),
        token_only=True,
    ),
    Case(
        "address to be confirmed",
        error(89503, "this ip needs the confirmation of the administrator"),
        Held("", _TOKEN_HELD, 89503),
        lambda s: s.addresses.set("ask"),
        token_only=True,
    ),
    Case(
        "token endpoint busy",
        error(-1, "system error"),
        Held("", 1, -1),
        _faults(token_answer=-1),
        token_only=True,
    ),
]
# The connection's own troubles have no documented answer: the stand-in's are compared alone.
BROKEN = [
    ("no answer after accepting", Faults(drop_after_accept=1.0), Unclear("*"), True),
    ("silence after accepting", Faults(hang_after_accept=1.0), Unclear("ReadTimeout"), True),
    ("cut off after accepting", Faults(truncated=1.0), Unclear("*"), True),
    ("reset", Faults(reset=1.0), Unclear("*"), False),
    ("HTTP 500", Faults(http_500=1.0), Unclear("HTTP 500", 500), False),
    ("HTTP 429", Faults(http_429=1.0), TryLater("HTTP 429", 1.0, 429, is_general=True), False),
]

"""The template message API: what is accepted, what is refused, and what arrives on which phone.

Models the documentation and what users report. Not known of the real one, and so a knob in
`faults.py`: how it answers a repeated client_msg_id.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.faults import Dice, Faults
from app.sandbox.quotas import Quotas
from app.sandbox.templates import PLATFORM_TEMPLATE, filled, text_of_fields

REMEMBERED_SECONDS = 600.0
LONGEST_URL = 1024
FIELDS = ("first", "keyword1", "keyword2", "keyword3", "keyword4", "remark")
_OPENID = re.compile(r"[A-Za-z0-9_-]{4,64}")
_KINDS: dict[str, Callable[[str], bool]] = {
    "thing": lambda text: 0 < len(text) <= 20,
    "number": lambda text: re.fullmatch(r"[\d.,-]{1,32}", text) is not None,
    "letter": lambda text: re.fullmatch(r"[A-Za-z]{1,32}", text) is not None,
    "character_string": lambda text: 0 < len(text) <= 32 and text.isascii(),
    "time": lambda text: re.search(r"\d{1,2}:\d{2}", text) is not None,
    "date": lambda text: re.search(r"\d{4}", text) is not None,
    "amount": lambda text: re.fullmatch(r"[￥¥$]?\d{1,10}(\.\d+)?元?", text) is not None,
    "phone_number": lambda text: re.fullmatch(r"[\d+*-]{1,17}", text) is not None,
    "name": lambda text: 0 < len(text) <= (20 if text.isascii() else 10),
    "phrase": lambda text: 0 < len(text) <= 5,
}

ERRORS = {
    -1: "system error",
    40001: "invalid credential, access_token is invalid or not latest, could get access_token "
    "by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r",
    40002: "invalid grant_type",
    40003: "invalid openid",
    40013: "invalid appid",
    40014: "invalid access_token",
    40036: "invalid template_id size",
    40037: "invalid template_id",
    40039: "invalid url size",
    40125: "invalid appsecret",
    40164: "invalid ip 127.0.0.1, not in whitelist",
    40241: "message is duplicate in 60 seconds",
    40249: "the content is blocked",
    41001: "access_token missing",
    42001: "access_token expired",
    43002: "require POST method",
    43004: "require subscribe",
    43101: "user refuse to accept the msg",
    43116: "this template is restricted",
    43117: "send to this user too frequently",
    45009: "reach max api daily quota limit",
    45011: "api minute-quota reach limit, must slower retry next minute",
    47001: "data format error",
    48001: "api unauthorized",
    48006: "forbid to clear quota because of reaching the limit",
    89501: "this ip is waiting for the confirmation of the administrator",
    89503: "this ip needs the confirmation of the administrator",
    89506: "this ip was refused twice, ask again after 24 hours",
    89507: "this ip was refused, ask again after 1 hour",
}


@dataclass
class ArrivedMessage:
    """One template message as it stands on a phone."""

    msgid: str
    openid: str
    template_id: str
    client_msg_id: str | None
    data: dict[str, str]
    url: str | None
    miniprogram: dict[str, str] | None
    at: float
    text: str
    """What the customer reads: the template's text, filled in."""


@dataclass(frozen=True)
class SendAnswer:
    """What became of a request to send: an errcode, or a msgid and, unless it is a repeat, a
    message that arrives."""

    code: int = 0
    text: str = ""
    msgid: int = 0
    message: ArrivedMessage | None = None


@dataclass
class Accounts:
    """The official account's side: followers, templates, quotas, and the phones."""

    template_id: str
    dice: Dice
    now: Callable[[], float]
    messages: list[ArrivedMessage] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    """Openids that don't follow (any more)."""
    refusing: set[tuple[str, str]] = field(default_factory=set)
    """Openids that refused a template, and the template. No event tells of it."""
    templates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Their field names."""
    texts: dict[str, str] = field(default_factory=dict)
    """Their texts; none: a line for each field."""
    banned: set[str] = field(default_factory=set)
    """Templates that WeChat restricts."""
    blocked_words: set[str] = field(default_factory=set)
    """Content that WeChat doesn't let through."""
    accepted: int = 0
    repeats: int = 0
    _known: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.templates.setdefault(self.template_id, FIELDS)
        self.texts.setdefault(self.template_id, PLATFORM_TEMPLATE)
        self.quotas = Quotas(self.now)

    def take(self, body: Any, faults: Faults) -> SendAnswer:
        """1. what is wrong with the request, 2. a repeat, 3. what the quotas say, 4. it arrives."""
        code, text = self._check(body)
        if code:
            return SendAnswer(code, text)
        openid, client_msg_id, now = body["touser"], body.get("client_msg_id"), self.now()
        known = self._known.get((openid, client_msg_id or ""))
        if client_msg_id and known and now - known[0] < REMEMBERED_SECONDS:
            self.repeats += 1
            if faults.duplicate_reply == "error_40241":
                return SendAnswer(40241)
            is_same = faults.duplicate_reply == "ok_same_msgid"
            return SendAnswer(msgid=known[1] if is_same else self.dice.msgid())
        data = {name: item["value"] for name, item in body["data"].items()}
        code = self.quotas.error(openid, f"{body['template_id']} {data}")
        if code:
            return SendAnswer(code)
        msgid = self.dice.msgid()
        if client_msg_id:
            self._known[openid, client_msg_id] = (now, msgid)
        message = ArrivedMessage(
            str(msgid),
            openid,
            body["template_id"],
            client_msg_id,
            data,
            body.get("url"),
            body.get("miniprogram"),
            now,
            filled(self.text_of(body["template_id"]), data),
        )
        self.messages.append(message)
        self.accepted += 1
        return SendAnswer(msgid=msgid, message=message)

    def text_of(self, template_id: str) -> str:
        """Return a template's text."""
        return self.texts.get(template_id) or text_of_fields(self.templates[template_id])

    def _check(self, body: Any) -> tuple[int, str]:
        """Return the errcode that a request earns, 0 for none, and what names the culprit."""
        if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
            return 47001, ""
        openid, template_id = body.get("touser"), body.get("template_id")
        if not isinstance(openid, str) or not _OPENID.fullmatch(openid):
            return 40003, ""
        if openid in self.strangers:
            return 43004, ""
        if not isinstance(template_id, str) or template_id not in self.templates:
            is_long_enough = len(str(template_id)) == len(self.template_id)
            return (40037 if is_long_enough else 40036), ""
        if template_id in self.banned:
            return 43116, ""
        if (openid, template_id) in self.refusing:
            return 43101, ""
        if len(body.get("url") or "") > LONGEST_URL:
            return 40039, ""
        for name, item in body["data"].items():
            value = item.get("value") if isinstance(item, dict) else None
            fits = _KINDS.get(name.rstrip("0123456789"))
            if not isinstance(value, str) or (fits is not None and not fits(value)):
                return 47003, f"argument invalid! data.{name}.value invalid"
            if any(word in value for word in self.blocked_words):
                return 40249, ""
        return 0, ""

"""The template message API: what is accepted, what is refused, and what arrives on which phone.

Models the documentation and what users report. Not known of the real one, and so a knob in
`faults.py`: how it answers a repeated client_msg_id.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.faults import Dice, Faults

REMEMBERED_SECONDS = 600.0
LONGEST_URL = 1024
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
    40003: "invalid openid",
    40013: "invalid appid",
    40014: "invalid access_token",
    40037: "invalid template_id",
    40039: "invalid url size",
    40125: "invalid appsecret",
    40241: "message is duplicate in 60 seconds",
    41001: "access_token missing",
    42001: "access_token expired",
    43002: "require POST method",
    43004: "require subscribe",
    43101: "user refuse to accept the msg",
    45009: "reach max api daily quota limit",
    47001: "data format error",
}


@dataclass
class Message:
    """One template message as it stands on a phone."""

    msgid: str
    openid: str
    template_id: str
    client_msg_id: str | None
    data: dict[str, str]
    url: str | None
    miniprogram: dict[str, str] | None
    at: float


@dataclass
class Accounts:
    """The official account's side: followers, template, quota, and the phones."""

    template_id: str
    dice: Dice
    now: Callable[[], float]
    messages: list[Message] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    """Openids that don't follow (any more)."""
    refusing: set[str] = field(default_factory=set)
    """Openids that refused the template."""
    daily_quota: int = 100_000
    accepted: int = 0
    repeats: int = 0
    _known: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)

    def check(self, body: Any) -> tuple[int, str]:
        """Return the errcode that a request earns, 0 for none, and what names the culprit."""
        if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
            return 47001, ""
        openid = body.get("touser")
        if not isinstance(openid, str) or not _OPENID.fullmatch(openid):
            return 40003, ""
        if openid in self.strangers:
            return 43004, ""
        if body.get("template_id") != self.template_id:
            return 40037, ""
        if openid in self.refusing:
            return 43101, ""
        if len(body.get("url") or "") > LONGEST_URL:
            return 40039, ""
        for name, item in body["data"].items():
            value = item.get("value") if isinstance(item, dict) else None
            fits = _KINDS.get(name.rstrip("0123456789"))
            if not isinstance(value, str) or (fits is not None and not fits(value)):
                return 47003, f"argument invalid! data.{name}.value invalid"
        if self.accepted >= self.daily_quota:
            return 45009, ""
        return 0, ""

    def accept(self, body: dict[str, Any], faults: Faults) -> tuple[int, Message | None]:
        """Take a message that `check` found good. None: a repeat, nothing arrives."""
        now = self.now()
        openid, client_msg_id = body["touser"], body.get("client_msg_id")
        known = self._known.get((openid, client_msg_id or ""))
        if client_msg_id and known and now - known[0] < REMEMBERED_SECONDS:
            self.repeats += 1
            same = faults.duplicate_reply == "ok_same_msgid"
            return int(known[1]) if same else self.dice.msgid(), None
        msgid = self.dice.msgid()
        if client_msg_id:
            self._known[openid, client_msg_id] = (now, str(msgid))
        message = Message(
            str(msgid),
            openid,
            body["template_id"],
            client_msg_id,
            {name: item["value"] for name, item in body["data"].items()},
            body.get("url"),
            body.get("miniprogram"),
            now,
        )
        self.messages.append(message)
        self.accepted += 1
        return msgid, message

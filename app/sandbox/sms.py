"""The contract's SMS gateway: it accepts a message_id once, and drops repeats."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Text:
    """One SMS on a phone."""

    message_id: str
    phone: str
    text: str
    at: float


@dataclass
class Gateway:
    """The accepted messages, by message_id in order."""

    now: Callable[[], float]
    texts: dict[str, Text] = field(default_factory=dict)
    repeats: int = 0

    def check(self, body: Any) -> str | None:
        """Return what is wrong with a request; None: nothing."""
        if not isinstance(body, dict):
            return "the body is no JSON object"
        for name in ("message_id", "phone", "signature", "content"):
            if not isinstance(body.get(name), str) or not body[name]:
                return f"{name} is missing"
        return None

    def accept(self, body: dict[str, str]) -> tuple[str, Text | None]:
        """Return the gateway's id, and the SMS unless it is a repeat."""
        known = body["message_id"] in self.texts
        if known:
            self.repeats += 1
            return f"sms-{body['message_id']}", None
        text = Text(
            body["message_id"],
            body["phone"],
            f"【{body['signature']}】{body['content']}",
            self.now(),
        )
        self.texts[body["message_id"]] = text
        return f"sms-{body['message_id']}", text

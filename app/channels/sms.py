"""SMS through the platform's gateway, as the contract describes it.

The gateway drops a repeated `message_id`, however late it comes. So after an unclear attempt the
message is sent again with the same id until there is an answer.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

from agents.channel import Message
from agents.holds import Holds
from agents.limits import Limits
from agents.outcomes import Held, Outcome, Refused, Sent, Skipped, TryLater, Unclear
from app.http import Answer, NoAnswer, post
from streams.records import Account, Channel, Notification, encode

if TYPE_CHECKING:
    from app.settings import Settings

# The address or token of the gateway or of a proxy is wrong: the message isn't the cause.
_WRONG_DOOR = frozenset({401, 403, 404, 405, 407})

SMS_CODES = [status.value for status in HTTPStatus if status >= 400]
"""Under which codes a message may fail; a gateway's own ones aren't known."""
SMS_SKIPS = ("no gateway", "no phone")
"""Why a message is skipped."""


def payload(command: Notification, phone: str, signature: str) -> dict[str, str]:
    """Return the body of the request to the gateway."""
    return {
        "message_id": command.notification_id,
        "phone": phone,
        "signature": signature,
        "content": command.content,
    }


def outcome(answer: Answer | NoAnswer) -> Outcome:
    """Return what the gateway's answer means."""
    if isinstance(answer, NoAnswer):
        return Unclear(answer.error) if answer.may_be_taken else TryLater(answer.error)
    status, text = answer.status, f"HTTP {answer.status}"
    if 200 <= status < 300:
        provider_id = (answer.body or {}).get("id")
        is_id = isinstance(provider_id, str | int) and not isinstance(provider_id, bool)
        return Sent(str(provider_id) if is_id and provider_id != "" else None)
    if status == 429:
        return TryLater(text, answer.retry_after_s, status, is_general=True)
    if 300 <= status < 400 or status in _WRONG_DOOR:
        return Held(f"{text}: are DIALWATCH_SMS_URL and DIALWATCH_SMS_TOKEN right?", 60.0, status)
    if 400 <= status < 500:
        return Refused(text, status)
    return Unclear(text, status)


class SmsChannel:
    """The `agents.channel.SendingChannel` of one gateway. Without a URL it skips every message."""

    name: Channel = "sms"
    doubt_limit_s: float | None = None

    def __init__(
        self, http: httpx.AsyncClient, *, url: str | None, token: str | None, signature: str
    ) -> None:
        self.holds = Holds(self.name)
        self.limits = Limits()
        self._http = http
        self._url = url
        self._token = token
        self._signature = signature

    def prepare(
        self, command: Notification, account: Account | None
    ) -> Message | Skipped | Refused:
        """Return the message to send, or why it isn't sent."""
        if self._url is None:
            return Skipped("no gateway")
        phone = account.phone if account is not None else None
        if not phone:
            return Skipped("no phone")
        body = encode(payload(command, phone, self._signature))
        return Message(command.notification_id, phone, "", body)

    def pause_s(self, message: Message) -> float:
        """Return 0: the gateway has limits of its own, and answers 429."""
        return 0.0

    async def ready(self, message: Message) -> None:
        """Return at once: nothing is needed but the message."""

    async def send(self, message: Message, *, is_repeat: bool) -> Outcome:
        """Send the message once. The gateway itself recognizes repeats."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        secrets = (self._token,) if self._token else ()
        url = self._url or ""
        return outcome(
            await post(self._http, self.name, url, message.body, headers=headers, secrets=secrets)
        )

    def claim(
        self, command: Notification, key: bytes | None, attempts: int, provider_id: str
    ) -> None:
        """Return None: the gateway sends no later word about a message."""


def build_sms(settings: "Settings", http: httpx.AsyncClient) -> SmsChannel:
    """Return the channel with the settings' gateway."""
    token = settings.sms_token
    return SmsChannel(
        http,
        url=settings.sms_url or None,
        token=token.get_secret_value() if token is not None else None,
        signature=settings.sms_signature,
    )

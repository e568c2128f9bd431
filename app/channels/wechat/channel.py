"""The WeChat channel: sends a template message with the token in one POST, and reads the answer."""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from agents.channel import Claim, Message, StoreAwayError
from agents.clock import Clock, wall_clock
from agents.holds import Holds
from agents.limits import Limits
from agents.outcomes import Held, Outcome, Refused, Skipped, TryLater
from app.channels.wechat.client import WechatClient
from app.channels.wechat.fields import UnfitFieldError, parse_fields
from app.channels.wechat.message import Template, payload
from app.channels.wechat.outcomes import (
    RULES,
    Circumstances,
    Do,
    Rule,
    StaleToken,
    outcome,
    parse_rules,
    rid,
    rule_for,
)
from app.channels.wechat.pace import Pace, RecipientPace
from app.channels.wechat.receipts import Receipt, Receipts
from app.channels.wechat.refusals import Refusals, Restricted
from app.channels.wechat.rests import Rests
from app.channels.wechat.subscriptions import Subscriptions
from app.channels.wechat.token import Tokens
from app.channels.wechat.token_store import TokenStore
from app.http import Answer, NoAnswer
from app.operations.masks import masked
from streams.records import Account, Channel, Notification, encode

if TYPE_CHECKING:
    from app.settings import Settings

log = logging.getLogger(__name__)

# WeChat recognizes a repeated client_msg_id for ten minutes; the repeat must arrive within them.
DOUBT_LIMIT_SECONDS = 590.0
# For a token that is refused right after its renewal: mostly another program has renewed it again.
REFUSED_TOKEN_HOLD_SECONDS = 5.0

WECHAT_SKIPS = ("no openid", "no official account", "no template", "unsubscribed")
"""Why a message is skipped."""


class _Jump(Struct):
    appid: str


class _Body(Struct):
    miniprogram: _Jump | None = None


class WechatChannel:
    """The `agents.channel.SendingChannel` of one official account."""

    name: Channel = "wechat"
    doubt_limit_s: float | None = DOUBT_LIMIT_SECONDS

    def __init__(
        self,
        client: WechatClient,
        tokens: Tokens,
        receipts: Receipts,
        subscriptions: Subscriptions,
        rests: Rests,
        *,
        template: Template,
        rate: float,
        rules: Mapping[int, Rule] = RULES,
        now: Clock = wall_clock,
    ) -> None:
        """`rate`: the most sends a second. `rules`: the table of codes. `now` returns instants."""
        self.holds = Holds(self.name, now=now)
        self.limits = Limits()
        self._client = client
        self._tokens = tokens
        self._receipts = receipts
        self._subscriptions = subscriptions
        self._rests = rests
        self._template = template
        self._pace = Pace(rate)
        self._recipient_pace = RecipientPace()
        self._rules = rules
        self._now = now
        self._template_refusals = Refusals()
        self._restricted = Restricted()

    def prepare(
        self, command: Notification, account: Account | None
    ) -> Message | Skipped | Refused:
        """Return the message to send, or why it isn't sent."""
        openid = command.openid or (account.openid if account is not None else None)
        if not openid:
            return Skipped("no openid")
        if not self._client.is_configured:
            return Skipped("no official account")
        if not (command.template_id or self._template.template_id):
            return Skipped("no template")
        try:
            body = payload(command, account, openid, self._template)
        except UnfitFieldError as error:
            return Refused(str(error), 47003)
        return Message(
            body["client_msg_id"],
            openid,
            body["template_id"],
            # msgspec writes Chinese unescaped, as it must be: WeChat refuses \u escapes.
            encode(body),
            self._subscriptions.bar(openid),
        )

    def pause_s(self, message: Message) -> float:
        """Count the message; return how many seconds it must wait for its recipient's sake."""
        return self._recipient_pace.pause_s(message.recipient)

    async def ready(self, message: Message) -> Held | None:
        """Wait for a token and for a place in the pace; or return why there is no token."""
        while True:
            token = await self._tokens.get()
            if not isinstance(token, str):
                return token
            await self._pace.wait()
            # Meanwhile it may have ended, or been refused to another message.
            if self._tokens.current is not None:
                return None

    async def send(self, message: Message, *, is_repeat: bool) -> Outcome:
        """Send once. Where WeChat refuses the token nothing was taken, and `ready` renews it."""
        token = self._tokens.current
        if token is None:
            return Held("token: it has just ended", REFUSED_TOKEN_HOLD_SECONDS, is_stale=True)
        result = await self._send_with(token, message, is_repeat=is_repeat)
        if isinstance(result, StaleToken):
            self._tokens.refuse(token)
            return Held(result.error, REFUSED_TOKEN_HOLD_SECONDS, result.error_code, is_stale=True)
        return result

    async def _send_with(
        self, token: str, message: Message, *, is_repeat: bool
    ) -> Outcome | StaleToken:
        answer = _unnamed(await self._client.send_template(token, message.body), message.recipient)
        rule = rule_for(answer, self._rules)
        if rule is not None and rule.is_overload:
            self._pace.on_overload()
        recipients_hit, template_refusals = 0, 0
        if rule is not None and rule.do is Do.REFUSE_OR_HOLD:
            recipients_hit = self._restricted.count(message.recipient)
        if rule is not None and rule.do is Do.HOLD_TEMPLATE:
            template_refusals = self._template_refusals.count(message.scope)
        elif rule is not None and rule.do is Do.ACCEPT:
            self._template_refusals.forget(message.scope)
            self._restricted.forget()
        result = outcome(
            answer,
            Circumstances(
                now=self._now(),
                template_id=message.scope,
                is_own_template=message.scope == self._template.template_id,
                is_own_jump=rule is None
                or rule.do is not Do.HOLD_UNLESS_FOREIGN
                or self._is_own_jump(message),
                is_repeat=is_repeat,
                recipients_hit=recipients_hit,
                template_refusals=template_refusals,
            ),
            self._rules,
        )
        if rule is not None and rule.do is Do.REFUSE_STRANGER:
            # Only saves the next attempt, which WeChat would refuse anyway.
            with suppress(StoreAwayError):
                await self._subscriptions.on_refusal(message.recipient)
        if isinstance(result, TryLater) and result.is_recipients and result.after_s is not None:
            # Only told to who asks: the sender itself knows.
            with suppress(StoreAwayError):
                await self._rests.begin(
                    message.recipient, result.error_code, result.error, result.after_s, self._now()
                )
        if isinstance(result, Refused | Held | TryLater) and isinstance(answer, Answer):
            _log_refusal(answer, result, message)
        return result

    def _is_own_jump(self, message: Message) -> bool:
        """Does the message name no mini-program other than ours?"""
        jump = msgspec.json.decode(message.body, type=_Body).miniprogram
        return jump is None or jump.appid == self._template.miniprogram_app_id

    def claim(
        self, command: Notification, key: bytes | None, attempts: int, provider_id: str
    ) -> Claim:
        """Return the claim that stores whose message this msgid is."""
        receipt = Receipt(
            command.notification_id, command.account_id, command.scenario, attempts, key
        )
        return self._receipts.claim(provider_id, receipt)


def _log_refusal(answer: Answer, result: Refused | Held | TryLater, message: Message) -> None:
    # Tencent's support asks for the request id.
    request_id = rid((answer.body or {}).get("errmsg", ""))
    log.info(
        "wechat answered %s (rid %s)",
        result.error_code,
        request_id,
        # The message's id is the notification's, except where that is too long.
        extra={"notification_id": message.message_id},
    )


def build_client(settings: "Settings", http: httpx.AsyncClient) -> WechatClient:
    """Return the client of the settings' official account."""
    secret = settings.wechat_app_secret
    return WechatClient(
        http,
        settings.wechat_base_url,
        settings.wechat_app_id or "",
        secret.get_secret_value() if secret is not None else "",
    )


def build_tokens(
    settings: "Settings", client: WechatClient, redis: Redis, *, asks_at_once: bool = False
) -> Tokens:
    """Return the token of the settings' official account, shared through Redis."""
    return Tokens(
        client,
        TokenStore(redis, client.app_id),
        rules=parse_rules(settings.wechat_rules),
        asks_at_once=asks_at_once,
    )


def build_wechat(settings: "Settings", redis: Redis, http: httpx.AsyncClient) -> WechatChannel:
    """Return the channel of the settings' official account."""
    client = build_client(settings, http)
    return WechatChannel(
        client,
        build_tokens(settings, client, redis),
        Receipts(redis, settings.group),
        Subscriptions(redis, settings.group),
        Rests(redis, settings.group),
        template=Template(
            template_id=settings.wechat_template_id or "",
            fields=parse_fields(settings.wechat_fields),
            zone=settings.zone,
            miniprogram_app_id=settings.wechat_miniprogram_app_id,
            call_page=settings.wechat_call_page,
            home_page=settings.wechat_home_page,
        ),
        rate=settings.wechat_rate,
        rules=parse_rules(settings.wechat_rules),
    )


def _unnamed(answer: Answer | NoAnswer, openid: str) -> Answer | NoAnswer:
    """Return the answer without the openid in its text, which goes into logs and deliveries."""
    if isinstance(answer, NoAnswer) or answer.body is None:
        return answer
    text = str(answer.body.get("errmsg", ""))
    if openid not in text:
        return answer  # nearly always; compiling an expression for each openid costs much
    # Only as a whole word: a short openid might be a part of some other word.
    named = re.compile(rf"(?<![\w-]){re.escape(openid)}(?![\w-])")
    if named.search(text) is None:
        return answer
    plain = named.sub(lambda _: masked(openid), text)
    return msgspec.structs.replace(answer, body={**answer.body, "errmsg": plain})

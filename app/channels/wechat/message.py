"""The body of a WeChat template message: its texts, and where a tap on it leads. Pure."""

import re
from collections.abc import Sequence
from datetime import tzinfo
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from app.channels.wechat.fields import fill, fit
from streams.records import Account, Notification
from streams.times import parse_instant
from tables.texts import clock_text

_GREETING = "你好！"
_CLOSING = "通知结束"
_SAFE_ID = re.compile(r"[0-9A-Za-z_-]{1,32}")
_CALL_SCENARIOS = frozenset({"interested_customer"})
_HOME_SCENARIOS = frozenset({"batch_completed", "unreachable_run", "line_error_run"})


class Template(Struct, frozen=True, kw_only=True):
    """This installation's template, and where a tap on its messages leads."""

    template_id: str
    fields: Sequence[str]
    """The account's names of the six template fields; empty: the field is left out."""
    zone: tzinfo
    miniprogram_app_id: str | None = None
    call_page: str = ""
    home_page: str = ""


def client_msg_id(notification_id: str) -> str:
    """Return the id by which WeChat recognizes a repeat: always the same for a notification."""
    if _SAFE_ID.fullmatch(notification_id):
        return notification_id
    return blake2b(notification_id.encode(), digest_size=16).hexdigest()


def payload(
    command: Notification, account: Account | None, openid: str, template: Template
) -> dict[str, Any]:
    """Return the request body. Raises UnfitFieldError where WeChat would refuse a field."""
    if command.data is not None:
        data = command.data
    else:
        name = account.name if account is not None else command.account_id or ""
        values = [_GREETING, name, command.title, command.content]
        values += [clock_text(parse_instant(command.occurred_at), template.zone), _CLOSING]
        data = fill(template.fields, values)
    return {
        "touser": openid,
        "template_id": command.template_id or template.template_id,
        "client_msg_id": client_msg_id(command.notification_id),
        "data": {name: {"value": value} for name, value in fit(data).items()},
        **_jump(command, template),
    }


def _jump(command: Notification, template: Template) -> dict[str, Any]:
    """Return where a tap leads: the command's target, else the page of its scenario."""
    jump: dict[str, Any] = {}
    if command.url:
        jump["url"] = command.url
    if command.app_id or (command.page_path and not command.url):
        app_id, page = command.app_id or template.miniprogram_app_id, command.page_path
    elif command.url:
        # WeChat prefers a mini-program: beside a url only one that the command itself names.
        app_id, page = None, None
    else:
        app_id, page = template.miniprogram_app_id, _page(command, template)
        app_id = app_id if page else None
    if app_id:
        jump["miniprogram"] = {"appid": app_id, **({"pagepath": page} if page else {})}
    return jump


def _page(command: Notification, template: Template) -> str | None:
    call_id = command.cause.get("call_id")
    if command.scenario in _CALL_SCENARIOS and isinstance(call_id, str):
        return template.call_page.replace("{call_id}", quote(call_id, safe=""))
    if command.scenario in _CALL_SCENARIOS | _HOME_SCENARIOS:
        return template.home_page
    return None

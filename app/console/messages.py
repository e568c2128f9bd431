"""The text of a notification as the customer saw it, derived from its command. Pure."""

from typing import Any

from app.channels.wechat.fields import UnfitFieldError, fit
from app.channels.wechat.message import Template, payload
from app.settings import Settings
from streams.decoding import InvalidRecordError, decode_notification
from streams.records import Account

# The platform's template, into which WeChat puts the values; see the contract's texts.
_LINES = ("{}", "客户名称：{}", "客服类型：{}", "提醒内容：{}", "通知时间：{}", "{}")


def as_seen(key: bytes | None, value: bytes, name: str | None, settings: Settings) -> str | None:
    """Return the text that the customer's phone or inbox shows; None: the command has no readable
    text.

    `name`: the account's present name; the sender used the one at the time of sending.
    """
    try:
        command = decode_notification(key, value)
    except InvalidRecordError:
        return None
    if command.channel == "inbox":
        return f"{command.title}\n{command.content}"
    if command.channel == "sms":
        return f"【{settings.sms_signature}】{command.content}"
    account = Account(command.account_id or "", name) if name is not None else None
    # With the usual field names, so that each value is found whatever this account's fields are.
    usual = ("first", "keyword1", "keyword2", "keyword3", "keyword4", "remark")
    template = Template(template_id="", fields=usual, zone=settings.zone)
    try:
        data: dict[str, Any] = payload(command, account, "", template)["data"]
        said = {field: value["value"] for field, value in data.items()}
        # The template for another system's data isn't known here: show the values in order.
        return "\n".join(_filled(said, usual, settings) if command.data is None else said.values())
    except UnfitFieldError:
        return None


def _filled(said: dict[str, str], usual: tuple[str, ...], settings: Settings) -> list[str]:
    """Return the template's lines, without those whose field this installation leaves out."""
    names = settings.wechat_fields.split(",")
    lines = []
    for line, field, name in zip(_LINES, usual, names, strict=False):
        if name.strip():
            lines.append(line.format(fit({name.strip(): said[field]})[name.strip()]))
    return lines

"""The texts that customers read, by scenario, and the commands that carry them.

One function a scenario: values in, the commands of its channels out. The wording is the
contract's.
"""

from collections.abc import Sequence
from datetime import tzinfo
from hashlib import blake2b
from typing import Any

from streams.records import Announcement, Call, Channel, Notification, Recharge, Scenario
from streams.times import format_instant, format_money, local_datetime
from tables.customers import Customer, chosen_channels
from tables.runs import RunReached

_CHEAP: tuple[Channel, ...] = ("inbox", "wechat")
_URGENT: tuple[Channel, ...] = ("inbox", "wechat", "sms")
DEFAULT_CHANNELS: dict[Scenario, tuple[Channel, ...]] = {
    "interested_customer": _CHEAP,
    "batch_completed": _CHEAP,
    "unreachable_run": _CHEAP,
    "line_error_run": _CHEAP,
    "announcement": _CHEAP,
    "low_balance": _URGENT,
    "recharge_received": _URGENT,
    "account_expiring": _URGENT,
}
PAGES: dict[Scenario, str] = {
    "interested_customer": "call-records",
    "batch_completed": "call-center",
    "unreachable_run": "call-records",
    "line_error_run": "call-records",
    "announcement": "announcements",
    "low_balance": "finance",
    "recharge_received": "finance",
    "account_expiring": "profile",
}
_ANNOUNCEMENT_CHARACTERS = 50


_PARTED = {0x1E: "\x1e0", 0x1F: "\x1e1"}


def notification_id(scenario: Scenario, channel: Channel, *cause: str) -> str:
    """Return the id of a command: from its cause alone, so that the same log gives the same ids.

    32 hexadecimal digits, which WeChat takes for a `client_msg_id` as they are.
    """
    # Ids may hold what parts them here; two causes must not run together.
    said = "\x1f".join((scenario, channel, *(part.translate(_PARTED) for part in cause)))
    return blake2b(said.encode(), digest_size=16).hexdigest()


def clock_text(instant: int, zone: tzinfo) -> str:
    """Return local `YYYY-MM-DD HH:MM:SS`."""
    # strftime would leave out a year's leading zeros.
    return local_datetime(instant, zone).isoformat(" ", "seconds")[:19]


def money_text(fen: int) -> str:
    """Return `￥` and two decimals."""
    return f"￥{format_money(fen)}"


def name_of(account_id: str, customer: Customer | None) -> str:
    """Return the name an account is told under: without a record, its id."""
    return account_id if customer is None else customer.name


def _channels(scenario: Scenario, chosen: Sequence[Channel] | None) -> Sequence[Channel]:
    """Return whom a scenario is told by: without any there is nothing to write."""
    return DEFAULT_CHANNELS[scenario] if chosen is None else tuple(dict.fromkeys(chosen))


def _commands(
    scenario: Scenario,
    account_id: str,
    channels: Sequence[Channel],
    occurred_at: str,
    ids: tuple[str, ...],
    title: str,
    content: str,
    cause: dict[str, Any],
    *,
    wechat_title: str | None = None,
    wechat_content: str | None = None,
) -> list[Notification]:
    return [
        Notification(
            notification_id=notification_id(scenario, channel, account_id, *ids),
            scenario=scenario,
            account_id=account_id,
            channel=channel,
            occurred_at=occurred_at,
            title=wechat_title if channel == "wechat" and wechat_title else title,
            content=wechat_content if channel == "wechat" and wechat_content else content,
            page=PAGES[scenario] if channel == "inbox" else None,
            cause=cause,
        )
        for channel in channels
    ]


def interested_customer(
    call: Call, customer: Customer | None, ended: int, zone: tzinfo
) -> list[Notification]:
    """A customer called showed an interest that the account wants to know of."""
    channels = _channels("interested_customer", chosen_channels(customer, "interested_customer"))
    if not channels:
        return []
    return _commands(
        "interested_customer",
        call.account_id,
        channels,
        format_instant(ended, zone),
        (call.call_id, str(call.batch_index)),
        f"{call.result}类意向客户",
        f"客户号码：{call.phone}，点击查看详细通话记录，及时进行客户跟进",
        {"call_id": call.call_id, "phone": call.phone, "result": call.result},
    )


def batch_completed(
    call: Call, customer: Customer | None, submitted: int, ended: int, zone: tzinfo
) -> list[Notification]:
    """The call was the last of its batch."""
    channels = _channels("batch_completed", chosen_channels(customer, "batch_completed"))
    if not channels:
        return []
    when = clock_text(submitted, zone)
    return _commands(
        "batch_completed",
        call.account_id,
        channels,
        format_instant(ended, zone),
        (str(submitted), call.call_id),
        "任务完成",
        f"您在{when}创建的{call.batch_size}通号码的外呼任务已完成，请登录系统查看外呼结果。",
        {"submitted_at": format_instant(submitted, zone), "batch_size": call.batch_size},
        wechat_content="您的外呼任务已完成哦！请登录系统查看外呼结果",
    )


def unreachable_run(
    account_id: str, customer: Customer | None, reached: RunReached, ended: int, zone: tzinfo
) -> list[Notification]:
    """So many calls of the account in a row were not connected."""
    channels = _channels("unreachable_run", chosen_channels(customer, "unreachable_run"))
    if not channels:
        return []
    return _commands(
        "unreachable_run",
        account_id,
        channels,
        format_instant(ended, zone),
        (reached.first_call_id, reached.call_id),
        "连续未接通警报",
        f"您的外呼任务出现连续{reached.length}通电话未接通，请点击查看",
        {
            "run_length": reached.length,
            "first_call_id": reached.first_call_id,
            "call_id": reached.call_id,
        },
    )


def line_error_run(
    account_id: str,
    chosen: list[Channel] | None,
    line_id: str,
    reached: RunReached,
    ended: int,
    zone: tzinfo,
) -> list[Notification]:
    """A line that the account calls over failed so many times in a row."""
    channels = _channels("line_error_run", chosen)
    if not channels:
        return []
    return _commands(
        "line_error_run",
        account_id,
        channels,
        format_instant(ended, zone),
        (line_id, reached.first_call_id, reached.call_id),
        "线路报错",
        f"您的外呼任务出现连续{reached.length}通电话线路报错的问题，"
        "请点击查看具体报错信息，并联系您的线路提供商",
        {
            "run_length": reached.length,
            "first_call_id": reached.first_call_id,
            "call_id": reached.call_id,
            "line_id": line_id,
        },
    )


def shortened(content: str) -> str:
    """Return what customers are told of an announcement's content."""
    return content[:_ANNOUNCEMENT_CHARACTERS]


def announcement(
    account_id: str, customer: Customer, said: Announcement, published: int, zone: tzinfo
) -> list[Notification]:
    """The platform has something to say to everyone."""
    channels = _channels("announcement", chosen_channels(customer, "announcement"))
    if not channels:
        return []
    return _commands(
        "announcement",
        account_id,
        channels,
        format_instant(published, zone),
        (said.announcement_id,),
        said.title,
        f"{shortened(said.content)}，登录系统查看详情",
        {"announcement_id": said.announcement_id},
    )


def low_balance(
    account_id: str, customer: Customer, balance: int, at: int, zone: tzinfo
) -> list[Notification]:
    """The balance is below the account's threshold, which there must be."""
    channels = _channels("low_balance", chosen_channels(customer, "low_balance"))
    if not channels:
        return []
    threshold = customer.threshold or 0
    return _commands(
        "low_balance",
        account_id,
        channels,
        format_instant(at, zone),
        (str(at),),
        "余额不足",
        f"尊敬的{customer.name}，您的账户余额已不足{money_text(threshold)}，为了不影响您的外呼任务，"
        "请及时充值。详情请登录后台费用中心进行查看，感谢您的使用。",
        {"balance": format_money(balance), "threshold": format_money(threshold)},
    )


def recharge_received(
    recharge: Recharge, customer: Customer | None, amount: int, balance: int, at: int, zone: tzinfo
) -> list[Notification]:
    """Money arrived."""
    channels = _channels("recharge_received", chosen_channels(customer, "recharge_received"))
    if not channels:
        return []
    name = name_of(recharge.account_id, customer)
    return _commands(
        "recharge_received",
        recharge.account_id,
        channels,
        format_instant(at, zone),
        (recharge.recharge_id,),
        "充值到账",
        f"尊敬的{name}，您的充值已成功，您的账户当前余额{money_text(balance)}。",
        {
            "recharge_id": recharge.recharge_id,
            "amount": format_money(amount),
            "balance": format_money(balance),
        },
    )


def account_expiring(
    account_id: str, customer: Customer, expires: int, at: int, zone: tzinfo
) -> list[Notification]:
    """The account is about to expire."""
    channels = _channels("account_expiring", chosen_channels(customer, "account_expiring"))
    if not channels:
        return []
    return _commands(
        "account_expiring",
        account_id,
        channels,
        format_instant(at, zone),
        (str(expires), str(at)),
        "账户到期预警",
        f"尊敬的{customer.name}，您的账户即将到期，请联系您的销售经理进行延期。",
        {"expires_at": format_instant(expires, zone)},
        wechat_title="账户到期",
    )

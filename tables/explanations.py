"""Why each scenario has fired or not, of one account: every rule's own explanation, and what its
channels can't reach. A pure function of what is remembered, the settings and the deliveries.

A scenario that isn't in `_RULES` fails a test: no rule without its explanation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import time, tzinfo
from typing import NamedTuple

from streams.records import SCENARIOS, Channel, Delivery, Scenario, Status
from tables import balances, batches, customers, interests, lines, recharges, runs
from tables.customers import chosen_channels
from tables.explained import Explained, Sentence
from tables.remembered import Remembered
from tables.texts import DEFAULT_CHANNELS

_CHANNELS: dict[str, Sentence] = {
    "inbox": Sentence("站内信", "inbox"),
    "wechat": Sentence("微信", "wechat"),
    "sms": Sentence("短信", "sms"),
}
_STATUSES: dict[Status, Sentence] = {
    "sent": Sentence("已发送", "sent"),
    "delivered": Sentence("已送达", "delivered"),
    "undelivered": Sentence("未送达", "not delivered"),
    "skipped": Sentence("已跳过", "skipped"),
    "failed": Sentence("发送失败", "given up"),
}


class HoldSaid(NamedTuple):
    """A channel that is on hold."""

    channel: str
    reason: str
    """The provider's code, or `away`."""
    detail: str
    """The provider's own words."""
    until: str


@dataclass(frozen=True)
class Settled:
    """The settings that rules and channels depend on. Durations are in microseconds."""

    zone: tzinfo
    run_length: int
    run_window: int
    batch_retention: int
    reminder_time: time
    expiry_notice_days: int
    has_wechat: bool
    has_sms: bool


@dataclass(frozen=True)
class Outside:
    """What isn't in the state: the account's deliveries, newest first, and the holds that workers
    keep in Redis (None: Redis is away)."""

    deliveries: Sequence[Delivery] = ()
    is_subscribed: bool | None = None
    holds: Sequence[HoldSaid] | None = None
    rest: HoldSaid | None = None
    """What WeChat said of this customer alone: its messages wait."""


Rule = Callable[[Remembered, Settled], Explained]

_RULES: dict[Scenario, Rule] = {
    "interested_customer": lambda known, _: interests.explain(known.customer),
    "batch_completed": lambda known, settled: batches.explain(
        known.batches, retention=settled.batch_retention, zone=settled.zone
    ),
    "unreachable_run": lambda known, settled: runs.explain(
        known.run, length=settled.run_length, window=settled.run_window, zone=settled.zone
    ),
    "line_error_run": lambda _, settled: lines.explain(length=settled.run_length),
    "announcement": lambda known, _: customers.explain_announcement(known.customer),
    "low_balance": lambda known, settled: balances.explain(
        known.balance,
        None if known.customer is None else known.customer.threshold,
        tick=known.tick,
        reminder_time=settled.reminder_time,
        zone=settled.zone,
    ),
    "recharge_received": lambda known, _: recharges.explain(known.recharges),
    "account_expiring": lambda known, settled: customers.explain_expiry(
        known.customer,
        notice_days=settled.expiry_notice_days,
        tick=known.tick,
        reminder_time=settled.reminder_time,
        zone=settled.zone,
    ),
}


def explain(scenario: Scenario, known: Remembered, settled: Settled, outside: Outside) -> Explained:
    """Return how far a scenario is for an account, and why nothing was told or sent."""
    rule = _RULES[scenario](known, settled)
    because = [*rule.because, *_channels(scenario, known, settled, outside)]
    return rule._replace(because=because + _latest(scenario, outside.deliveries))


def explain_all(known: Remembered, settled: Settled, outside: Outside) -> dict[Scenario, Explained]:
    """Return the explanation of every scenario."""
    return {scenario: explain(scenario, known, settled, outside) for scenario in SCENARIOS}


def _channels(
    scenario: Scenario, known: Remembered, settled: Settled, outside: Outside
) -> list[Sentence]:
    """Explain what would keep a message of this scenario from being sent by its channels."""
    chosen = chosen_channels(known.customer, scenario)
    channels = DEFAULT_CHANNELS[scenario] if chosen is None else tuple(dict.fromkeys(chosen))
    if not channels:
        return [Sentence("账户为此没有选择任何渠道。", "The account chose no channel for it.")]
    found = []
    if "wechat" in channels:
        found += _wechat(known, settled, outside)
    if "sms" in channels:
        found += _sms(known, settled)
    for channel, reason, detail, until in outside.holds or ():
        if channel in channels:
            found.append(
                Sentence(
                    f"{_CHANNELS[channel].zh}渠道暂停中（{reason}：{detail}），{until}再试。",
                    f"The channel {channel} is on hold ({reason}: {detail}); it is tried again at "
                    f"{until}.",
                )
            )
    if outside.holds is None and channels != ("inbox",):
        found.append(
            Sentence(
                "Redis不可用：渠道是否暂停未知。",
                "Redis is away: whether a channel is on hold isn't known.",
            )
        )
    return found


def _wechat(known: Remembered, settled: Settled, outside: Outside) -> list[Sentence]:
    if not settled.has_wechat:
        return [
            Sentence(
                "没有设置公众号，微信消息会跳过。",
                "No official account is set up: WeChat messages are skipped.",
            )
        ]
    if known.customer is None or not known.customer.openid:
        return [
            Sentence(
                "没有openid，微信消息会跳过。", "There is no openid: WeChat messages are skipped."
            )
        ]
    if outside.is_subscribed is False:
        return [
            Sentence(
                "客户已取消关注公众号，微信消息会跳过。",
                "The customer unsubscribed: WeChat messages are skipped.",
            )
        ]
    if outside.is_subscribed is None:
        return [
            Sentence(
                "Redis不可用：客户是否关注公众号未知。",
                "Redis is away: whether the customer follows the account isn't known.",
            )
        ]
    if outside.rest is not None:
        _, code, detail, until = outside.rest
        return [
            Sentence(
                f"微信称暂不再向该客户发送消息（{code}：{detail}），其消息在等待，最迟{until}再试。",
                f"WeChat said that this customer gets nothing more for a while ({code}: {detail}); "
                f"what waits for them is tried again by {until}.",
            )
        ]
    return []


def _sms(known: Remembered, settled: Settled) -> list[Sentence]:
    if not settled.has_sms:
        return [
            Sentence("没有设置短信网关，短信会跳过。", "No SMS gateway is set: SMS are skipped.")
        ]
    if known.customer is None or not known.customer.phone:
        return [Sentence("没有手机号，短信会跳过。", "There is no phone: SMS are skipped.")]
    return []


def _latest(scenario: Scenario, deliveries: Sequence[Delivery]) -> list[Sentence]:
    """Say what became of the last message by each channel."""
    newest: dict[Channel, Delivery] = {}
    for delivery in deliveries:
        if delivery.scenario == scenario:
            newest.setdefault(delivery.channel, delivery)
    found = []
    for channel, status, name in (
        (_CHANNELS[channel], _STATUSES[delivery.status], delivery)
        for channel, delivery in newest.items()
    ):
        why = f"：{name.error}" if name.error else ""
        why_en = f": {name.error}" if name.error else ""
        found.append(
            Sentence(
                f"最近一条{channel.zh}消息（{name.at}）{status.zh}{why}。",
                f"The last one by {channel.en}, at {name.at}, was {status.en}{why_en}.",
            )
        )
    return found

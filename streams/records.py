"""The records of the contract, which travel over Kafka, field by field. No state, no clients.

How bytes become records, and what makes a record invalid, is in `streams/decoding.py`.
"""

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

Result = Literal["A", "B", "C", "D", "E", "F", "W"]
IntentClass = Literal["A", "B", "C", "D", "E"]
Channel = Literal["inbox", "wechat", "sms"]
Scenario = Literal[
    "interested_customer",
    "batch_completed",
    "unreachable_run",
    "line_error_run",
    "announcement",
    "low_balance",
    "recharge_received",
    "account_expiring",
]
Status = Literal["sent", "delivered", "undelivered", "skipped", "failed"]

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
CHANNELS: tuple[Channel, ...] = get_args(Channel)
INTENT_CLASSES: tuple[IntentClass, ...] = get_args(IntentClass)

# Far above any real batch size, and an exact number in every JSON reader.
_MAX_BATCH_SIZE = 2**53


class Call(Struct, gc=False):
    """One finished call. Times and money are texts as published: the rules parse what they need."""

    call_id: str
    account_id: str
    line_id: str
    result: Result
    phone: str
    submitted_at: str
    batch_size: Annotated[int, Meta(ge=1, le=_MAX_BATCH_SIZE)]
    batch_index: Annotated[int, Meta(ge=0, le=_MAX_BATCH_SIZE)]
    ended_at: str
    balance: str | None = None
    duration_s: Annotated[float, Meta(ge=0)] | None = None
    error: str | None = None


class Recharge(Struct, gc=False):
    """A payment that arrived on an account."""

    recharge_id: str
    account_id: str
    amount: str
    balance: str
    completed_at: str


class Announcement(Struct, gc=False):
    """A message of the platform to all accounts; `kind` says whether they are told."""

    announcement_id: str
    kind: str
    title: str
    content: str
    published_at: str

    @property
    def is_for_everyone(self) -> bool:
        return self.kind in {"upgrade", "service"}


class ChannelChoice(Struct, omit_defaults=True, gc=False):
    """The channels that an account chose for each scenario; None: the scenario's default."""

    interested_customer: list[Channel] | None = None
    batch_completed: list[Channel] | None = None
    unreachable_run: list[Channel] | None = None
    line_error_run: list[Channel] | None = None
    announcement: list[Channel] | None = None
    low_balance: list[Channel] | None = None
    recharge_received: list[Channel] | None = None
    account_expiring: list[Channel] | None = None


class Account(Struct, omit_defaults=True, gc=False):
    """A customer's account on the platform, with the customer's choices."""

    account_id: str
    name: str
    openid: str | None = None
    phone: str | None = None
    intent_classes: list[IntentClass] | None = None
    balance_threshold: str | None = None
    expires_at: str | None = None
    channels: ChannelChoice | None = None


class Tick(Struct, gc=False):
    """A tick: says what time it is."""

    at: str


class Notification(Struct, omit_defaults=True, gc=False):
    """A command to the sender: tell one account one thing by one channel.

    The fields from `openid` on are set by other systems only, in place of what the sender would
    look up. `title` and `content` are the texts of the channel.
    """

    notification_id: Annotated[str, Meta(min_length=1)]
    scenario: str
    account_id: str | None
    channel: Channel
    occurred_at: str
    title: str
    content: str
    page: str | None
    cause: dict[str, Any]
    openid: str | None = None
    template_id: str | None = None
    data: dict[str, str] | None = None
    url: str | None = None
    app_id: str | None = None
    page_path: str | None = None


class InboxMessage(Struct, gc=False):
    """A message in the website's inbox."""

    message_id: str
    account_id: str
    scenario: str
    title: str
    content: str
    page: str | None
    cause: dict[str, Any]
    created_at: str


class Delivery(Struct, omit_defaults=True, gc=False):
    """What became of a command: for instance sent, skipped or failed."""

    notification_id: str
    channel: Channel
    account_id: str | None
    scenario: str
    status: Status
    attempts: int
    at: str
    provider_id: str | None = None
    error_code: int | None = None
    error: str | None = None


class WechatEvent(Struct, gc=False):
    """An event that WeChat sent to the callback, for the platform's other services."""

    event_id: str
    event: str
    openid: str
    scene: str | None
    at: str
    fields: dict[str, str]


encode = msgspec.json.Encoder().encode

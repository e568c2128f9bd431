"""Customers: what an account's record says, and which reminders were sent because of it."""

from datetime import time, tzinfo

from msgspec import Struct

from streams.records import CHANNELS, INTENT_CLASSES, Account, Channel, Scenario
from streams.times import DAY, format_instant, parse_instant, parse_money
from tables.explained import Explained, Sentence

# A record for each minute of three days: far more than anybody writes, and still a short value.
_EXPIRIES_REMEMBERED = 4_096


class Customer(Struct, array_like=True):
    """An account that has a record. Persisted: append fields only, with defaults."""

    name: str
    openid: str | None
    phone: str | None
    intent_classes: str
    """The interest classes wanted, as one string: `AB`."""
    threshold: int | None
    """In fen."""
    expires: int | None
    """Instant."""
    channels: dict[str, list[Channel]] | None
    since: int
    """Offset in `accounts` of the record that began the account."""
    told_expiries: list[int] = []
    """Expiry instants for which the reminder was sent, and that a tick may still come before."""


def from_record(account: Account, offset: int, before: Customer | None) -> Customer:
    """Return the customer a record describes, with what is carried over from the one `before`.

    `offset`: the record's.
    """
    chosen = account.channels
    channels = (
        None
        if chosen is None
        else {
            # Named once each: a list of a hundred thousand would travel with every line error.
            scenario: list(dict.fromkeys(getattr(chosen, scenario)))
            for scenario in chosen.__struct_fields__
            if getattr(chosen, scenario) is not None
        }
    )
    return Customer(
        name=account.name,
        openid=account.openid,
        phone=account.phone,
        # Named once each, as channels are: this is copied beside what every call changes.
        intent_classes="".join(dict.fromkeys(account.intent_classes or ())),
        threshold=(
            None if account.balance_threshold is None else parse_money(account.balance_threshold)
        ),
        expires=None if account.expires_at is None else parse_instant(account.expires_at),
        channels=channels or None,
        since=offset if before is None else before.since,
        told_expiries=[] if before is None else before.told_expiries,
    )


def wishes(customer: Customer | None) -> tuple[str, int | None]:
    """Return what each call of an account is compared with: interest classes and threshold."""
    if customer is None:
        return "", None
    wanted = customer.intent_classes
    if len(wanted) > len(INTENT_CLASSES):  # remembered by 0.1.0
        wanted = "".join(dict.fromkeys(wanted))
    return wanted, customer.threshold


def chosen_channels(customer: Customer | None, scenario: Scenario) -> list[Channel] | None:
    """Return the channels an account chose for a scenario, None: the default."""
    if customer is None or customer.channels is None:
        return None
    chosen = customer.channels.get(scenario)
    if chosen is not None and len(chosen) > len(CHANNELS):  # remembered by 0.1.0
        return list(dict.fromkeys(chosen))
    return chosen


def notice_begins(customer: Customer, notice_days: int) -> int | None:
    """Return the instant from which the expiry reminder is due; None: there is none to send."""
    if customer.expires is None or customer.expires in customer.told_expiries:
        return None
    return customer.expires - notice_days * DAY


def tell_expiry(customer: Customer, tick: int, notice_days: int) -> int | None:
    """Return the expiry to remind of at this tick, each once; None: none is due.

    The caller makes sure that the tick is at or after its day's reminder time.
    """
    begins = notice_begins(customer, notice_days)
    if begins is None or customer.expires is None or not begins <= tick < customer.expires:
        return None
    still_to_come = [one for one in customer.told_expiries if one > tick]
    customer.told_expiries = [*still_to_come, customer.expires][-_EXPIRIES_REMEMBERED:]
    return customer.expires


def explain_announcement(customer: Customer | None) -> Explained:
    """Explain whether an account is told announcements."""
    reason = (
        Sentence(
            "账户没有资料记录，公告只通知有资料的账户。",
            "The account has no record, and announcements go to accounts that have one.",
        )
        if customer is None
        else Sentence(
            "upgrade和service类公告发布时通知，其他类公告不通知。",
            "Announcements of kind upgrade and service are told when they come, others are not.",
        )
    )
    return Explained(None, None, [reason])


def explain_expiry(
    customer: Customer | None, *, notice_days: int, tick: int, reminder_time: time, zone: tzinfo
) -> Explained:
    """Explain when the expiry reminder is sent, or that it was. `tick`: the latest, 0: none."""
    expires = None if customer is None else customer.expires
    if customer is None or expires is None:
        reason = Sentence("没有设置到期时间。", "No expiry is set.")
        return Explained(None, None, [reason])
    begins = expires - notice_days * DAY
    when, since = format_instant(expires, zone), format_instant(begins, zone)
    at = f"{reminder_time:%H:%M}"
    stands = format_instant(tick, zone) if tick else None
    if expires in customer.told_expiries:
        reason = Sentence(f"{when}到期已经通知过。", f"The expiry of {when} was told already.")
    elif not tick:
        reason = Sentence("还没有收到时钟（ticks）。", "No tick has come yet, and ticks remind.")
    elif tick >= expires:
        reason = Sentence(
            f"已于{when}到期，到期后不再通知。",
            f"It expired at {when}: an expiry is told only before.",
        )
    elif tick < begins:
        reason = Sentence(
            f"{when}到期，{since}起才会通知（提前{notice_days}天）。",
            f"It expires at {when}, which is told from {since} on ({notice_days} days before).",
        )
    else:
        reason = Sentence(
            f"{when}到期，{at}起的下一次时钟会通知。",
            f"It expires at {when}: the next tick at or after {at} tells it.",
        )
    return Explained(stands, since, [reason])

"""Customers: what an account's record says, and what was already said because of it."""

from msgspec import Struct

from streams.records import Account, Channel, Scenario
from streams.times import DAY, parse_instant, parse_money

_EXPIRIES_REMEMBERED = 16


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
    """Offset in `accounts` from which on the account has had a record."""
    told_expiries: list[int] = []
    """Expiry instants of which the customer was told."""


def from_record(account: Account, offset: int, before: Customer | None) -> Customer:
    """Return the customer a record describes; what was known `before` is kept where it counts.

    `offset`: the record's.
    """
    chosen = account.channels
    channels = (
        None
        if chosen is None
        else {
            scenario: getattr(chosen, scenario)
            for scenario in chosen.__struct_fields__
            if getattr(chosen, scenario) is not None
        }
    )
    return Customer(
        name=account.name,
        openid=account.openid,
        phone=account.phone,
        intent_classes="".join(account.intent_classes or ()),
        threshold=(
            None if account.balance_threshold is None else parse_money(account.balance_threshold)
        ),
        expires=None if account.expires_at is None else parse_instant(account.expires_at),
        channels=channels or None,
        since=offset if before is None else before.since,
        told_expiries=[] if before is None else before.told_expiries,
    )


def wishes(customer: Customer | None) -> tuple[str, int | None]:
    """Return what each call of an account is held against: the classes and the threshold."""
    return ("", None) if customer is None else (customer.intent_classes, customer.threshold)


def chosen_channels(customer: Customer | None, scenario: Scenario) -> list[Channel] | None:
    """Return the channels an account chose for a scenario, None: the default."""
    if customer is None or customer.channels is None:
        return None
    return customer.channels.get(scenario)


def notice_begins(customer: Customer, notice_days: int) -> int | None:
    """Return the instant from which on the expiry is to be told, None: there is nothing to tell."""
    if customer.expires is None or customer.expires in customer.told_expiries:
        return None
    return customer.expires - notice_days * DAY


def tell_expiry(customer: Customer, tick: int, notice_days: int) -> int | None:
    """Return the expiry that is to be told at this tick, once; None: none.

    The caller makes sure that the tick is at or after its day's reminder time.
    """
    begins = notice_begins(customer, notice_days)
    if begins is None or customer.expires is None or not begins <= tick < customer.expires:
        return None
    customer.told_expiries = [*customer.told_expiries, customer.expires][-_EXPIRIES_REMEMBERED:]
    return customer.expires

"""Why an account was told something, or wasn't: the pure explanations of `tables/`, given what
they need of Kafka and Redis."""

import asyncio
from typing import Any

from app.operations import deliveries
from app.operations.installation import Installation
from app.operations.providers import holds_in_force, is_subscribed, rest_of
from app.operations.state import remember
from app.settings import Settings
from tables.explained import Language
from tables.explanations import Outside, Settled, explain_all
from tables.remembered import Remembered

_MOST_DELIVERIES = 200
# What an account was told long ago explains nothing, and an answer must not wait for it.
_MOST_BACK = 100_000


async def explain_account(
    installation: Installation, account_id: str, *, language: Language = "en"
) -> list[dict[str, Any]] | None:
    """Return where each scenario stands with an account and why it is silent, as `dialwatch
    explain` prints it; None: there is no such account."""
    _, known = await remember(installation, account_id)
    wanted = deliveries.DeliveryFilter(account=account_id, limit=_MOST_DELIVERIES)
    latest = await deliveries.look_for(installation, wanted, most_back=_MOST_BACK)
    zone = installation.settings.zone
    found = [deliveries.in_zone(one.delivery, zone) for one in latest]
    if known.is_nothing and not found:
        return None
    openid = None if known.customer is None else known.customer.openid
    settings = installation.settings
    wechat, holds, rest = await asyncio.gather(
        is_subscribed(settings, openid), holds_in_force(settings), rest_of(settings, openid)
    )
    subscribed = None if wechat is None else wechat["subscribed"]
    return describe(settings, known, Outside(found, subscribed, holds, rest), language)


def describe(
    settings: Settings, known: Remembered, outside: Outside, language: Language
) -> list[dict[str, Any]]:
    """Return the JSON of all explanations."""
    return [
        {
            "scenario": scenario,
            "stands": explained.stands,
            "needs": explained.needs,
            "because": [getattr(sentence, language) for sentence in explained.because],
        }
        for scenario, explained in explain_all(known, settled_by(settings), outside).items()
    ]


def settled_by(settings: Settings) -> Settled:
    """Return what explanations need of the settings."""
    rules = settings.rules
    return Settled(
        zone=settings.zone,
        run_length=rules.run_length,
        run_window=rules.run_window,
        batch_retention=rules.batch_retention,
        reminder_time=rules.reminder_time,
        expiry_notice_days=rules.expiry_notice_days,
        has_wechat=not settings.missing_to_send_wechat(),
        has_sms=settings.sms_url is not None,
    )

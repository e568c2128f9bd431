"""The state of one account or line, read from its partition of the changelog.

Only record batches that contain the id are unpacked, so that a million other accounts are skipped
quickly.
"""

import re
from datetime import tzinfo
from typing import Any

from app.operations.installation import Installation
from app.operations.masks import shown
from app.operations.providers import is_subscribed
from app.settings import Settings
from streams.engine.state import State
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END
from streams.times import DAY, format_instant, format_money
from tables.balances import told_dates
from tables.batches import BatchView
from tables.customers import Customer
from tables.lines import LineRun
from tables.remembered import Remembered, belongs_to, line_of, remembered_of
from tables.runs import Run

# The bytes of the partition clock's record: a key of one byte, t, and a value of less than 8 KiB
# that is a short array.
_CLOCK = re.compile(rb"\x02t(?:[\x02-\x7e]|[\x80-\xff][\x01-\x7f])[\x90-\x9f]", re.DOTALL)


async def read_state(installation: Installation, partition: int, key: bytes) -> State:
    """Return a partition's state with only the values of a key, and the partition's clock."""
    changelog = TP(installation.topics.changelog, partition)
    logs, state = installation.logs, State(partition)
    begins = await logs.offsets([changelog], BEGINNING)
    ends = await logs.offsets([changelog], END)
    wanted = (key, _CLOCK)
    async for records in logs.scan(changelog, begins[changelog], ends[changelog], wanted):
        state.restore(
            (record.key, record.value) for record in records if belongs_to(record.key, key)
        )
    return state


async def remember(installation: Installation, account_id: str) -> tuple[int, Remembered]:
    """Return an account's partition, and what is remembered of it, which may be nothing."""
    key, rules = account_id.encode(), installation.settings.rules
    partition = installation.partition(installation.topics.changelog, key).partition
    return partition, remembered_of(
        await read_state(installation, partition, key),
        key,
        batch_retention=rules.batch_retention,
        run_retention=rules.run_retention,
    )


async def account_state(
    installation: Installation, account_id: str, *, reveal: bool = False
) -> dict[str, Any] | None:
    """Return what is remembered of an account, as `dialwatch state account` prints it; None:
    nothing. `reveal`: show openid and phone whole."""
    partition, known = await remember(installation, account_id)
    if known.is_nothing:
        return None
    openid = None if known.customer is None else known.customer.openid
    subscribed = await is_subscribed(installation.settings, openid)
    return describe_account(
        installation.settings, account_id, partition, known, subscribed, reveal=reveal
    )


def describe_account(
    settings: Settings,
    account_id: str,
    partition: int,
    known: Remembered,
    wechat: dict[str, Any] | None,
    *,
    reveal: bool = False,
) -> dict[str, Any]:
    """Return the JSON of an account's state. `wechat`: what `is_subscribed` returned."""
    zone, customer = settings.zone, known.customer
    expires = None if customer is None else customer.expires
    notice_from = None if expires is None else expires - settings.expiry_notice_days * DAY
    return {
        "account_id": account_id,
        "partition": partition,
        "tick": _instant(known.tick or None, zone),
        "customer": None if customer is None else _customer(customer, zone, reveal=reveal),
        "run": _run(known.run, settings.run_length, zone),
        "batches": [describe_batch(view, zone) for view in known.batches],
        "balance": {
            "latest": _money(known.balance.latest),
            "told_on": told_dates(known.balance),
        },
        "expiry": {
            "expires_at": _instant(expires, zone),
            "notice_from": _instant(notice_from, zone),
            "told": customer is not None and expires in customer.told_expiries,
        },
        "wechat": wechat,
    }


async def line_state(installation: Installation, line_id: str) -> dict[str, Any] | None:
    """Return what is remembered of a line, as `dialwatch state line` prints it; None: nothing."""
    key, settings = line_id.encode(), installation.settings
    partition = installation.partition(installation.topics.changelog, key).partition
    state = await read_state(installation, partition, key)
    line = line_of(state, key, run_retention=settings.rules.run_retention)
    return None if line is None else describe_line(settings, line_id, partition, line)


def describe_batch(view: BatchView, zone: tzinfo) -> dict[str, Any]:
    """Return the JSON of a batch."""
    return {
        "submitted_at": format_instant(view.submitted, zone),
        "batch_size": view.batch.size,
        "seen": view.batch.seen,
        "missing": view.missing,
        "last_ended_at": format_instant(view.batch.last, zone),
        "completed": view.batch.seen == view.batch.size,
    }


def describe_line(
    settings: Settings, line_id: str, partition: int, line: LineRun
) -> dict[str, Any]:
    """Return the JSON of a line's state."""
    return {
        "line_id": line_id,
        "partition": partition,
        "run": _run(line.run, settings.run_length, settings.zone),
        "accounts": sorted(line.accounts) if line.run.count else [],
    }


def _customer(customer: Customer, zone: Any, *, reveal: bool) -> dict[str, Any]:
    return {
        "name": customer.name,
        "openid": shown(customer.openid, reveal=reveal),
        "phone": shown(customer.phone, reveal=reveal),
        "intent_classes": list(dict.fromkeys(customer.intent_classes)),
        "balance_threshold": _money(customer.threshold),
        "expires_at": _instant(customer.expires, zone),
        "channels": customer.channels,
    }


def _run(run: Run, length: int, zone: Any) -> dict[str, Any]:
    is_on = run.count > 0
    return {
        "count": run.count,
        "length": length,
        "first_call_id": run.first_call_id if is_on else None,
        "last_ended_at": format_instant(run.last, zone) if is_on else None,
    }


def _instant(instant: int | None, zone: Any) -> str | None:
    return None if instant is None else format_instant(instant, zone)


def _money(fen: int | None) -> str | None:
    return None if fen is None else format_money(fen)

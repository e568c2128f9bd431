"""Contract records for tests: valid unless a field is given otherwise."""

from typing import Any

from tests.installation import Published

SUBMITTED = "2019-01-30T15:00:00+08:00"
ENDED = "2019-01-30T15:52:10+08:00"


def account(account_id: str, **fields: Any) -> Published:
    """A customer with an openid and a phone."""
    value = {
        "account_id": account_id,
        "name": f"{account_id}公司",
        "openid": f"openid_{account_id}",
        "phone": "13900000001",
    }
    return Published("accounts", account_id, value | fields)


def call(account_id: str, index: int, **fields: Any) -> Published:
    """A call of one batch of 1000."""
    value = {
        "call_id": f"{account_id}-call-{index}",
        "account_id": account_id,
        "line_id": "line-1",
        "result": "E",
        "phone": "13700000000",
        "submitted_at": SUBMITTED,
        "batch_size": 1000,
        "batch_index": index,
        "ended_at": ENDED,
    }
    return Published("call-records", account_id, value | fields)


def recharge(account_id: str, recharge_id: str, **fields: Any) -> Published:
    value = {
        "recharge_id": recharge_id,
        "account_id": account_id,
        "amount": "100.00",
        "balance": "120.00",
        "completed_at": ENDED,
    }
    return Published("recharges", account_id, value | fields)


def announcement(announcement_id: str, **fields: Any) -> Published:
    value = {
        "announcement_id": announcement_id,
        "kind": "upgrade",
        "title": "系统升级",
        "content": "今晚升级",
        "published_at": ENDED,
    }
    return Published("announcements", announcement_id, value | fields)


def ticks(at: str, partitions: int) -> list[Published]:
    return [Published("ticks", None, {"at": at}, number) for number in range(partitions)]

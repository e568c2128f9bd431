"""The short form of `make test-sending`, under every way in which WeChat may answer a repeat."""

from typing import Any

import pytest

from app.local.valkey import Valkey
from app.sandbox.run import running_sandbox
from tests.send import long

NOTIFICATIONS = 150


@pytest.mark.parametrize(
    "faults",
    [
        {"duplicate_reply": "ok_same_msgid", "callback_twice": 0.3, "callback_delay_s": 0.5},
        {"duplicate_reply": "ok_new_msgid", "callback_share": 0.0},
        {"duplicate_reply": "error_40241", "callback_share": 0.0},
        {"duplicate_reply": "ok_same_msgid", "callback_before_answer": True},
    ],
    ids=lambda faults: "-".join(map(str, faults.values())),
)
async def test_every_customer_sees_every_notification_once_and_in_order(
    valkey: Valkey, faults: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long, "ROTATION_SECONDS", 1.5)
    with running_sandbox() as (_, environment):
        books, stats, messages = await long.send_all(
            NOTIFICATIONS,
            redis_url=valkey.redis_url,
            base_url=environment["DIALWATCH_WECHAT_BASE_URL"],
            faults={"busy": 0.05, "drop_after_accept": 0.05, "truncated": 0.03, "reset": 0.03}
            | faults,
        )
    assert long.problems(books, messages, NOTIFICATIONS) == []
    assert stats["repeats"] > 0
    assert stats["token_renewals"] > 1
    delivered = sum(one.status == "delivered" for told in books.deliveries.values() for one in told)
    assert delivered == (0 if faults.get("callback_share") == 0.0 else NOTIFICATIONS)

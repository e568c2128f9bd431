"""Commands in `notifications`, ours and other systems': where each goes."""

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agents.dispatch import DispatchAgent
from streams.decoding import decode_notification
from streams.engine.memory import MemoryRecord
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Output
from streams.records import Notification
from streams.topics import Topics

TOPICS = Topics("p.", "g", 1)
COMMAND: dict[str, Any] = {
    "notification_id": "from-elsewhere-1",
    "scenario": "anniversary",
    "account_id": "acme",
    "channel": "inbox",
    "occurred_at": "2019-01-30T15:52:10+08:00",
    "title": "标题",
    "content": "内容",
    "page": "profile",
    "cause": {"years": 3},
}
EXTRAS = {
    "openid": "o1",
    "template_id": "t1",
    "data": {"thing1": "x"},
    "url": "https://example.com",
    "app_id": "wx1",
    "page_path": "pages/x",
}


def dispatched(command: Any, key: bytes | None = b"acme") -> list[Output]:
    raw = command if isinstance(command, bytes) else json.dumps(command).encode()
    outputs: list[Output] = []
    records: list[Any] = [MemoryRecord(5, 0, key, raw)]
    batch = Chunk(TP(TOPICS.notifications, 3), records, State(3), outputs.append, lambda: None)
    DispatchAgent(TOPICS, ZoneInfo("Asia/Shanghai")).fold(batch)
    return outputs


def test_a_long_command_goes_on_byte_for_byte() -> None:
    raw = json.dumps(COMMAND | {"channel": "wechat", "unknown": "x" * (3 << 20)}).encode()
    (command,) = dispatched(raw)
    assert (command.topic, command.value) == ("g-wechat-outbox", raw)


def test_an_inbox_message_of_a_long_command_has_the_cause_as_it_came() -> None:
    cause = (
        '{"a": 1e9, "b": [0.10, 12345678901234567890123, "\\u00e4"], "c": ["' + "x" * 70_000 + '"]}'
    )
    raw = json.dumps(COMMAND).replace('{"years": 3}', cause)
    message, _ = dispatched(raw.encode())
    assert f'"cause":{cause},'.encode() in (message.value or b"")
    # Half an emoji in a field that nobody knows, for which the record is read slowly.
    message, _ = dispatched((raw[:-1] + r', "unknown": "\ud83d"}').encode())
    assert json.loads(message.value or b"")["cause"] == json.loads(cause)


def test_an_inbox_message_is_sent_with_the_record_in_inbox_messages() -> None:
    message, delivery = dispatched(COMMAND)
    assert (message.topic, message.key) == ("p.inbox-messages", b"acme")
    assert json.loads(message.value or b"") == {
        "message_id": "from-elsewhere-1",
        "account_id": "acme",
        "scenario": "anniversary",
        "title": "标题",
        "content": "内容",
        "page": "profile",
        "cause": {"years": 3},
        "created_at": "2019-01-30T15:52:10+08:00",
    }
    assert (delivery.topic, delivery.key) == ("p.deliveries", b"acme")
    said = json.loads(delivery.value or b"")
    assert said.pop("at")
    assert said == {
        "notification_id": "from-elsewhere-1",
        "channel": "inbox",
        "account_id": "acme",
        "scenario": "anniversary",
        "status": "sent",
        "attempts": 1,
    }


@pytest.mark.parametrize("account_id", ["acme", None])
def test_for_wechat_other_systems_may_add_what_replaces_what_would_be_looked_up(
    account_id: str | None,
) -> None:
    command = COMMAND | {"channel": "wechat", "account_id": account_id} | EXTRAS
    key = b"acme" if account_id else b"o1"
    (output,) = dispatched(command, key)
    assert output.topic == TOPICS.wechat_outbox
    assert output.value == json.dumps(command).encode()
    decoded = decode_notification(output.key, output.value)
    assert {name: getattr(decoded, name) for name in EXTRAS} == EXTRAS
    assert isinstance(decoded, Notification)


def test_a_fan_out_waits_and_an_alert_doesnt() -> None:
    for channel, topic, bulk in (
        ("wechat", TOPICS.wechat_outbox, TOPICS.wechat_bulk_outbox),
        ("sms", TOPICS.sms_outbox, TOPICS.sms_bulk_outbox),
    ):
        assert dispatched(COMMAND | {"channel": channel})[0].topic == topic
        announced = COMMAND | {"channel": channel, "scenario": "announcement"}
        assert dispatched(announced)[0].topic == bulk


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"channel": "pigeon"}, b"acme", b"channel: "),
        ({"occurred_at": "today"}, b"acme", b"occurred_at: "),
        ({"account_id": None}, b"acme", b"account_id: "),
        ({"account_id": None, "channel": "wechat", "openid": ""}, b"acme", b"account_id: "),
        ({}, b"bob", b"key: "),
        ({}, None, b"key: "),
        ({"channel": "wechat", "data": {"a": 1}}, b"acme", b"data[...]: "),
        ({"notification_id": "x" * 65}, b"acme", b"notification_id: "),
    ],
)
def test_an_invalid_command_is_a_dead_letter(
    change: dict[str, Any], key: bytes | None, reason: bytes
) -> None:
    (letter,) = dispatched(COMMAND | change, key)
    assert letter.topic == "p.dead-letters"
    assert (letter.key, letter.value) == (key, json.dumps(COMMAND | change).encode())
    headers = dict(letter.headers)
    assert headers["dialwatch.topic"] == b"p.notifications"
    assert headers["dialwatch.partition"] == b"3"
    assert headers["dialwatch.offset"] == b"5"
    assert headers["dialwatch.reason"].startswith(reason)

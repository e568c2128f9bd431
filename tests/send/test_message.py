"""What a template message says, and where a tap leads."""

from typing import Any

import msgspec
import pytest

from app.channels.wechat.fields import parse_fields
from app.channels.wechat.message import Template, client_msg_id, payload
from streams.records import Account
from tests.send.fakes import SHANGHAI, notification

TEMPLATE = Template(
    template_id="T",
    fields=parse_fields("first,keyword1,keyword2,keyword3,keyword4,remark"),
    zone=SHANGHAI,
    miniprogram_app_id="wx-mini",
    call_page="pages/call/detail?call_id={call_id}",
    home_page="pages/index/index",
)
ACCOUNT = Account("a", "甲公司", openid="o-a")


def body(template: Template = TEMPLATE, account: Account | None = ACCOUNT, **fields: object) -> Any:
    """Return the request for one command."""
    return payload(notification("n1", "a", **fields), account, "o-a", template)


def test_the_template_says_who_what_and_when() -> None:
    sent = body(occurred_at="2019-01-30T07:52:10.5Z")
    assert {name: value["value"] for name, value in sent["data"].items()} == {
        "first": "你好！",
        "keyword1": "甲公司",
        "keyword2": "任务完成",
        "keyword3": "您的外呼任务已完成哦！请登录系统查看外呼结果",
        "keyword4": "2019-01-30 15:52:10",
        "remark": "通知结束",
    }
    assert (sent["touser"], sent["template_id"], sent["client_msg_id"]) == ("o-a", "T", "n1")


def test_an_account_without_a_record_is_told_under_its_id() -> None:
    assert body(account=None)["data"]["keyword1"]["value"] == "a"


def test_chinese_travels_as_it_is() -> None:
    assert "任务完成".encode() in msgspec.json.encode(body())


@pytest.mark.parametrize(
    ("scenario", "page"),
    [
        ("interested_customer", "pages/call/detail?call_id=c%201"),
        ("batch_completed", "pages/index/index"),
        ("unreachable_run", "pages/index/index"),
        ("line_error_run", "pages/index/index"),
        ("announcement", None),
        ("low_balance", None),
        ("recharge_received", None),
        ("account_expiring", None),
    ],
)
def test_the_jump_is_the_scenarios(scenario: str, page: str | None) -> None:
    sent = body(scenario=scenario, cause={"call_id": "c 1"})
    expected = {"appid": "wx-mini", "pagepath": page} if page else None
    assert sent.get("miniprogram") == expected
    assert "url" not in sent


def test_without_a_mini_program_messages_carry_no_jump() -> None:
    template = msgspec.structs.replace(TEMPLATE, miniprogram_app_id=None)
    assert "miniprogram" not in body(template)


def test_what_other_systems_add_replaces_what_would_be_looked_up() -> None:
    sent = body(template_id="T2", data={"thing1": "字" * 30}, app_id="wx-2", page_path="p")
    assert sent["template_id"] == "T2"
    assert sent["data"] == {"thing1": {"value": "字" * 19 + "…"}}
    assert sent["miniprogram"] == {"appid": "wx-2", "pagepath": "p"}


def test_a_url_replaces_the_scenarios_jump() -> None:
    sent = body(url="https://example.com/")
    assert sent["url"] == "https://example.com/"
    assert "miniprogram" not in sent


def test_both_a_url_and_an_app_are_passed_on() -> None:
    sent = body(url="https://example.com/", app_id="wx-2")
    assert (sent["url"], sent["miniprogram"]) == ("https://example.com/", {"appid": "wx-2"})


def test_a_page_alone_is_the_installation_s_and_yields_to_a_url() -> None:
    assert body(page_path="p")["miniprogram"] == {"appid": "wx-mini", "pagepath": "p"}
    sent = body(url="https://example.com/", page_path="p")
    assert sent["url"] == "https://example.com/"
    assert "miniprogram" not in sent  # WeChat would prefer it, and no app was named


def test_a_short_plain_notification_id_is_the_client_message_id() -> None:
    assert client_msg_id("batch_7-A" + "a" * 23) == "batch_7-A" + "a" * 23


@pytest.mark.parametrize("notification_id", ["a" * 33, "run:a:7"])
def test_any_other_becomes_32_plain_characters_the_same_again(notification_id: str) -> None:
    made = client_msg_id(notification_id)
    assert made == client_msg_id(notification_id) != client_msg_id(notification_id + "x")
    assert len(made) == 32
    assert made.isalnum()

"""The contract's second table: what customers read, row by row."""

from datetime import datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from app.channels.wechat.message import Template, payload
from streams.records import (
    SCENARIOS,
    Account,
    Announcement,
    Call,
    Channel,
    Notification,
    Recharge,
)
from tables import texts
from tables.customers import Customer
from tables.runs import RunReached
from tests.drive import Drive
from tests.samples import account, announcement, call, recharge, ticks

FIELDS = ("first", "keyword1", "keyword2", "keyword3", "keyword4", "remark")
CALLS = "pages/call/detail?call_id=acme-call-0"
ZONE = ZoneInfo("Asia/Shanghai")
EARLIER = "2019-01-30T14:00:00+08:00"
HOME = "pages/index/index"


def history() -> list[dict[str, Any]]:
    """One command of each scenario and channel."""
    drive = Drive(run_length=2)
    drive.take(
        [
            account("acme", name="云帆科技", intent_classes=["A"], balance_threshold="50",
                    expires_at="2019-02-01T00:00:00+08:00"),
            call("acme", 0, result="A", submitted_at="2019-01-30T07:00:00Z", batch_size=2),
            call("acme", 1, result="F", submitted_at="2019-01-30T07:00:00Z", batch_size=2),
            call("acme", 2, result="F", submitted_at=EARLIER),
            call("acme", 3, result="W", submitted_at=EARLIER, balance="49.9"),
            call("acme", 4, result="W", submitted_at=EARLIER),
            recharge("acme", "r1", balance="120.5"),
            announcement("n1", title="系统升级", content="升" * 60),
            *ticks("2019-01-30T16:00:00+08:00", 1),
        ]
    )  # fmt: skip
    return drive.commands


LOW = (
    "尊敬的云帆科技，您的账户余额已不足￥50.00，为了不影响您的外呼任务，请及时充值。"
    "详情请登录后台费用中心进行查看，感谢您的使用。"
)
DONE = "您在2019-01-30 15:00:00创建的2通号码的外呼任务已完成，请登录系统查看外呼结果。"
ROWS = [
    ("interested_customer", "A类意向客户", None,
     "客户号码：13700000000，点击查看详细通话记录，及时进行客户跟进", None, "call-records", CALLS),
    ("batch_completed", "任务完成", None, DONE,
     "您的外呼任务已完成哦！请登录系统查看外呼结果", "call-center", HOME),
    ("unreachable_run", "连续未接通警报", None,
     "您的外呼任务出现连续2通电话未接通，请点击查看", None, "call-records", HOME),
    ("line_error_run", "线路报错", None,
     "您的外呼任务出现连续2通电话线路报错的问题，请点击查看具体报错信息，并联系您的线路提供商",
     None, "call-records", HOME),
    ("announcement", "系统升级", None,
     "升" * 50 + "，登录系统查看详情", None, "announcements", None),
    ("low_balance", "余额不足", None, LOW, None, "finance", None),
    ("recharge_received", "充值到账", None,
     "尊敬的云帆科技，您的充值已成功，您的账户当前余额￥120.50。", None, "finance", None),
    ("account_expiring", "账户到期预警", "账户到期",
     "尊敬的云帆科技，您的账户即将到期，请联系您的销售经理进行延期。", None, "profile", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("scenario", "title", "wechat_title", "content", "wechat_content", "page", "jump"),
    ROWS,
    ids=[row[0] for row in ROWS],
)
def test_the_texts_of(
    scenario: str,
    title: str,
    wechat_title: str | None,
    content: str,
    wechat_content: str | None,
    page: str,
    jump: str | None,
) -> None:
    said = {one["channel"]: one for one in history() if one["scenario"] == scenario}
    inbox, wechat = said["inbox"], said["wechat"]
    assert (inbox["title"], inbox["content"], inbox["page"]) == (title, content, page)
    assert wechat["page"] is None
    if "sms" in said:
        assert (said["sms"]["content"], said["sms"]["page"]) == (content, None)

    template = Template(
        template_id="t",
        fields=FIELDS,
        zone=ZONE,
        miniprogram_app_id="wxmini",
        call_page="pages/call/detail?call_id={call_id}",
        home_page=HOME,
    )
    command = msgspec.convert(wechat, Notification)
    body = payload(command, Account("acme", "云帆科技", "openid1"), "openid1", template)
    values = [body["data"][name]["value"] for name in FIELDS]
    assert values[:4] == ["你好！", "云帆科技", wechat_title or title, wechat_content or content]
    assert values[5] == "通知结束"
    at = "2019-01-30 16:00:00" if scenario == "account_expiring" else "2019-01-30 15:52:10"
    assert values[4] == at
    expected = {"appid": "wxmini", "pagepath": jump} if jump else None
    assert body.get("miniprogram") == expected
    assert "url" not in body


def test_without_a_mini_program_messages_carry_no_jump() -> None:
    (command,) = [
        one
        for one in history()
        if one["channel"] == "wechat" and one["scenario"] == "interested_customer"
    ]
    template = Template(
        template_id="t", fields=FIELDS, zone=ZONE, call_page="x?{call_id}", home_page=HOME
    )
    body = payload(msgspec.convert(command, Notification), None, "openid1", template)
    assert "miniprogram" not in body
    assert body["data"]["keyword1"]["value"] == "acme"


class _Untouchable(tzinfo):
    """A zone that nobody may look at: whoever writes a text needs one."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise AssertionError("a text is written that nobody gets")

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        raise AssertionError("a text is written that nobody gets")


def test_whoever_wants_none_of_it_costs_no_text() -> None:
    wants: dict[str, list[Channel]] = {scenario: [] for scenario in SCENARIOS}
    nobody = Customer("甲", None, None, "A", 5000, None, wants, 0)
    zone, said = _Untouchable(), Call("c", "a", "l", "A", "1", EARLIER, 1, 0, EARLIER)
    reached = RunReached(2, "c1", "c2")
    money = Recharge("r", "a", "1.00", "1.00", EARLIER)
    everybody = Announcement("n", "upgrade", "t", "c", EARLIER)
    assert texts.interested_customer(said, nobody, 0, zone) == []
    assert texts.batch_completed(said, nobody, 0, 0, zone) == []
    assert texts.unreachable_run("a", nobody, reached, 0, zone) == []
    assert texts.line_error_run("a", [], "l", reached, 0, zone) == []
    assert texts.announcement("a", nobody, everybody, 0, zone) == []
    assert texts.low_balance("a", nobody, 1, 0, zone) == []
    assert texts.recharge_received(money, nobody, 1, 1, 0, zone) == []
    assert texts.account_expiring("a", nobody, 0, 0, zone) == []

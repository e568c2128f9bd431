"""Why each rule is silent, said in both languages: every sentence there is comes up here."""

import ast
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from streams.records import SCENARIOS, Delivery, Scenario
from streams.times import DAY, HOUR, parse_instant
from tables import balances, batches, customers, explanations, interests, lines, recharges, runs
from tables.balances import Balance
from tables.batches import Batch, BatchView, Page
from tables.customers import Customer
from tables.explained import Explained, Sentence
from tables.explanations import HoldSaid, Outside, Settled, explain, explain_all
from tables.recharges import Recharges
from tables.remembered import Remembered
from tables.runs import Run

SHANGHAI = ZoneInfo("Asia/Shanghai")
TICK = parse_instant("2026-02-14T08:00:00+08:00")
TODAY = 739_661  # 2026-02-14
SETTLED = Settled(
    zone=SHANGHAI,
    run_length=100,
    run_window=24 * HOUR,
    batch_retention=7 * DAY,
    reminder_time=time(9),
    expiry_notice_days=7,
    has_wechat=True,
    has_sms=True,
)
CUSTOMER = Customer("云帆", "o123456789", "13912345678", "AB", 5000, None, None, 0)
KNOWN = Remembered(TICK, CUSTOMER, Run(), [], Balance(), None)
OUTSIDE = Outside(is_subscribed=True, holds=())


def said(
    scenario: Scenario,
    known: Remembered = KNOWN,
    settled: Settled = SETTLED,
    outside: Outside = OUTSIDE,
) -> Explained:
    return explain(scenario, known, settled, outside)


def check(explained: Explained, stands: Any, needs: Any, *because: Sequence[str]) -> None:
    """Compare; `because`: pairs of Chinese and English."""
    assert (explained.stands, explained.needs) == (stands, needs)
    assert explained.because == [Sentence(*pair) for pair in because]


def batch(seen: int, size: int, missing: list[int], at: str = "10:00:00") -> BatchView:
    submitted = parse_instant(f"2026-02-13T{at}+08:00")
    return BatchView(submitted, Batch(size, seen, submitted + HOUR), missing)


def test_every_scenario_is_explained() -> None:
    assert set(explanations._RULES) == set(SCENARIOS)
    everything = explain_all(KNOWN, SETTLED, OUTSIDE)
    assert list(everything) == list(SCENARIOS)
    assert all(explained.because for explained in everything.values())


def test_interest_says_which_classes_are_wanted() -> None:
    check(
        said("interested_customer"),
        None,
        "A,B",
        ("结果为A、B的通话会立即通知。", "A call with the result A or B is told at once."),
        (
            "结果为C、D、E的通话不通知：没有选择这些等级。",
            "A call with the result C or D or E is not: its class is not wanted.",
        ),
    )
    every = replace(KNOWN, customer=Customer("n", "o1", None, "EDCBA", None, None, None, 0))
    assert len(said("interested_customer", every).because) == 1
    none = replace(KNOWN, customer=Customer("n", "o1", None, "", None, None, None, 0))
    check(
        said("interested_customer", none),
        None,
        None,
        ("没有设置要通知的意向等级。", "No interest class is wanted."),
    )


def test_a_batch_says_what_is_missing_and_until_when_it_is_waited_for() -> None:
    check(said("batch_completed"), None, None, ("没有进行中的任务。", "No batch is in progress."))
    check(
        said("batch_completed", replace(KNOWN, batches=[batch(3, 3, [])])),
        None,
        None,
        ("记得的任务都已完成。", "Every batch that is remembered is complete."),
    )
    check(
        said("batch_completed", replace(KNOWN, batches=[batch(98, 100, [17, 55])])),
        98,
        100,
        (
            "2026-02-13T10:00:00+08:00创建的任务：100通中有98通已有结果，序号17、55缺少结果；"
            "2026-02-20T11:00:00+08:00前没有新的结果则不再等待。",
            "The batch of 2026-02-13T10:00:00+08:00: 98 of 100 have a record, indexes 17 and 55 "
            "missing; it is given up if nothing more of it comes until 2026-02-20T11:00:00+08:00.",
        ),
    )
    many = [batch(9, 10, [4], f"10:00:0{n}") for n in range(6)]
    many[0] = batch(1, 100, list(range(1, 21)))
    explained = said("batch_completed", replace(KNOWN, batches=many))
    assert (explained.stands, explained.needs) == (1, 100)
    assert "序号1、2" in explained.because[0].zh
    assert "20等99个缺少结果" in explained.because[0].zh
    assert "19, 20 and 79 more missing" in explained.because[0].en
    assert "index 4 missing" in explained.because[1].en
    assert explained.because[5] == ("另有1个任务进行中。", "1 more batches are in progress.")


def test_missing_indexes_are_found_over_all_pages_and_behind_the_bits() -> None:
    size = 3 * batches.PAGE_BITS + 5
    full = bytearray(b"\xff" * (batches.PAGE_BITS // 8))
    holes = bytearray(full)
    holes[1] = 0b1111_0111  # bit 11 of the second page
    pages = {1: Page(holes), 2: Page(full), 3: Page(bytearray(b"\x03"))}
    found = batches.missing(Batch(size, size - 4, bits=full), pages.get)
    assert found == [batches.PAGE_BITS + 11, *range(3 * batches.PAGE_BITS + 2, size)]
    assert batches.missing(Batch(2**53, 1, bits=bytearray(b"\x01")), pages.get) == list(
        range(1, 21)
    )
    assert batches.missing(Batch(2, 2), pages.get) == []


def test_a_run_says_how_far_it_is_and_when_it_begins_anew() -> None:
    check(
        said("unreachable_run"),
        0,
        100,
        (
            "目前没有连续未接通：最近一通不是未接通，或刚刚报过警。",
            "No run is going on: the last call was connected, or the run has just been told.",
        ),
    )
    last = parse_instant("2026-02-14T07:00:00+08:00")
    check(
        said("unreachable_run", replace(KNOWN, run=Run(98, "c1", last))),
        98,
        100,
        (
            "已连续98通未接通（阈值100），最近一通结束于2026-02-14T07:00:00+08:00，还差2通。",
            "98 of 100 calls in a row were not connected, the last ended at "
            "2026-02-14T07:00:00+08:00: 2 more are needed.",
        ),
        (
            "结束时间晚于2026-02-15T07:00:00+08:00的通话会重新开始计数。",
            "A call that ends later than 2026-02-15T07:00:00+08:00 begins a new run.",
        ),
    )


def test_a_line_s_run_is_looked_at_by_its_line() -> None:
    check(
        said("line_error_run"),
        None,
        100,
        (
            "线路报错按线路统计，同一线路所有账户的通话合计，连续100通报错时通知其中每个账户；"
            "查看线路：dialwatch state line ID。",
            "Errors are counted for each line, the calls of all accounts together; at 100 in a row "
            "each account with a call among them is told. A line: dialwatch state line ID.",
        ),
    )


def test_announcements_go_to_accounts_that_have_a_record() -> None:
    check(
        said("announcement"),
        None,
        None,
        (
            "upgrade和service类公告发布时通知，其他类公告不通知。",
            "Announcements of kind upgrade and service are told when they come, others are not.",
        ),
    )
    nobody = said("announcement", replace(KNOWN, customer=None))
    assert nobody.because[0] == (
        "账户没有资料记录，公告只通知有资料的账户。",
        "The account has no record, and announcements go to accounts that have one.",
    )


@pytest.mark.parametrize(
    ("balance", "threshold", "stands", "needs", "zh", "en"),
    [
        (
            Balance(4000), None, "40.00", None,
            "没有设置余额阈值。", "No balance threshold is set.",
        ),
        (
            Balance(), 5000, None, "50.00",
            "还不知道账户余额。", "No balance is known yet.",
        ),
        (
            Balance(5000), 5000, "50.00", "50.00",
            "余额50.00不低于阈值50.00。", "The balance 50.00 is not below the threshold 50.00.",
        ),
        (
            Balance(4000, (TODAY,)), 5000, "40.00", "50.00",
            "余额40.00低于阈值50.00，今天（2026-02-14）已经通知过。",
            "The balance 40.00 is below the threshold 50.00, and was told today already "
            "(2026-02-14).",
        ),
        (
            Balance(4000, (TODAY - 1,)), 5000, "40.00", "50.00",
            "余额40.00低于阈值50.00，09:00起的下一次时钟会通知。",
            "The balance 40.00 is below the threshold 50.00: the next tick at or after 09:00 "
            "tells it.",
        ),
    ],
)  # fmt: skip
def test_a_balance_says_how_it_is_to_its_threshold(
    balance: Balance, threshold: int | None, stands: Any, needs: Any, zh: str, en: str
) -> None:
    customer = Customer("n", "o123456789", "13912345678", "", threshold, None, None, 0)
    known = replace(KNOWN, customer=customer, balance=balance)
    check(said("low_balance", known), stands, needs, (zh, en))


def test_recharges_are_told_once_each() -> None:
    check(said("recharge_received"), 0, None, ("还没有充值记录。", "No recharge has come."))
    for count, en in ((1, "1 recharge has come"), (2, "2 recharges have come")):
        known = replace(KNOWN, recharges=Recharges(b"12345678" * count))
        check(
            said("recharge_received", known),
            count,
            None,
            (
                f"已到账{count}笔充值，每笔到账时通知一次，重复的记录不再通知。",
                f"{en}: each is told once.",
            ),
        )


@pytest.mark.parametrize(
    ("expires", "tick", "told", "zh", "en"),
    [
        (None, TICK, False, "没有设置到期时间。", "No expiry is set."),
        (
            "2026-02-20T00:00:00+08:00", TICK, True,
            "2026-02-20T00:00:00+08:00到期已经通知过。",
            "The expiry of 2026-02-20T00:00:00+08:00 was told already.",
        ),
        (
            "2026-02-20T00:00:00+08:00", 0, False,
            "还没有收到时钟（ticks）。", "No tick has come yet, and ticks remind.",
        ),
        (
            "2026-02-14T00:00:00+08:00", TICK, False,
            "已于2026-02-14T00:00:00+08:00到期，到期后不再通知。",
            "It expired at 2026-02-14T00:00:00+08:00: an expiry is told only before.",
        ),
        (
            "2026-03-01T00:00:00+08:00", TICK, False,
            "2026-03-01T00:00:00+08:00到期，2026-02-22T00:00:00+08:00起才会通知（提前7天）。",
            "It expires at 2026-03-01T00:00:00+08:00, which is told from "
            "2026-02-22T00:00:00+08:00 on (7 days before).",
        ),
        (
            "2026-02-20T00:00:00+08:00", TICK, False,
            "2026-02-20T00:00:00+08:00到期，09:00起的下一次时钟会通知。",
            "It expires at 2026-02-20T00:00:00+08:00: the next tick at or after 09:00 tells it.",
        ),
    ],
)  # fmt: skip
def test_an_expiry_says_when_it_is_told(
    expires: str | None, tick: int, told: bool, zh: str, en: str
) -> None:
    instant = None if expires is None else parse_instant(expires)
    customer = Customer("n", "o123456789", "13912345678", "", None, instant, None, 0)
    if told:
        customer.told_expiries = [instant or 0]
    explained = said("account_expiring", replace(KNOWN, customer=customer, tick=tick))
    assert explained.because == [Sentence(zh, en)]
    notice_from = None if instant is None else parse_instant(str(explained.needs))
    assert notice_from == (None if instant is None else instant - 7 * DAY)


NOT_REACHED = [
    (
        {"settled": replace(SETTLED, has_wechat=False)},
        "没有设置公众号，微信消息会跳过。",
        "No official account is set up: WeChat messages are skipped.",
    ),
    (
        {"known": replace(KNOWN, customer=None)},
        "没有openid，微信消息会跳过。",
        "There is no openid: WeChat messages are skipped.",
    ),
    (
        {"outside": replace(OUTSIDE, is_subscribed=False)},
        "客户已取消关注公众号，微信消息会跳过。",
        "The customer unsubscribed: WeChat messages are skipped.",
    ),
    (
        {"outside": replace(OUTSIDE, rest=HoldSaid("wechat", "43117", "too often", "9:30"))},
        "微信称暂不再向该客户发送消息（43117：too often），其消息在等待，最迟9:30再试。",
        "WeChat said that this customer gets nothing more for a while (43117: too often); what "
        "waits for them is tried again by 9:30.",
    ),
    (
        {"outside": replace(OUTSIDE, is_subscribed=None)},
        "Redis不可用：客户是否关注公众号未知。",
        "Redis is away: whether the customer follows the account isn't known.",
    ),
    (
        {"settled": replace(SETTLED, has_sms=False)},
        "没有设置短信网关，短信会跳过。",
        "No SMS gateway is set: SMS are skipped.",
    ),
    (
        {"known": replace(KNOWN, customer=None)},
        "没有手机号，短信会跳过。",
        "There is no phone: SMS are skipped.",
    ),
    (
        {"outside": replace(OUTSIDE, holds=None)},
        "Redis不可用：渠道是否暂停未知。",
        "Redis is away: whether a channel is on hold isn't known.",
    ),
    (
        {"outside": replace(OUTSIDE, holds=[HoldSaid("sms", "away", "ConnectError", "9:30")])},
        "短信渠道暂停中（away：ConnectError），9:30再试。",
        "The channel sms is on hold (away: ConnectError); it is tried again at 9:30.",
    ),
    (
        {
            "known": replace(
                KNOWN,
                customer=Customer("n", None, None, "", None, None, {"recharge_received": []}, 0),
            )
        },
        "账户为此没有选择任何渠道。",
        "The account chose no channel for it.",
    ),
]


@pytest.mark.parametrize(("given", "zh", "en"), NOT_REACHED)
def test_what_would_keep_a_message_from_its_customer_is_said(
    given: dict[str, Any], zh: str, en: str
) -> None:
    sentence = Sentence(zh, en)
    assert sentence in said("recharge_received", **given).because
    assert sentence not in said("recharge_received").because


def test_a_hold_of_a_channel_that_isn_t_used_is_no_reason() -> None:
    holds = Outside(is_subscribed=True, holds=[HoldSaid("sms", "away", "x", "9:30")])
    assert len(said("announcement", outside=holds).because) == 1  # inbox and WeChat


def test_the_last_message_by_each_channel_is_said() -> None:
    def delivery(channel: Any, status: Any, error: str | None, at: str) -> Delivery:
        return Delivery("n", channel, "acme", "announcement", status, 1, at, error=error)

    newest_first = [
        delivery("wechat", "undelivered", "user block", "11:00"),
        delivery("wechat", "sent", None, "10:30"),
        delivery("inbox", "sent", None, "10:00"),
        Delivery("n", "sms", "acme", "low_balance", "failed", 1, "9:00", error="no"),
    ]
    outside = replace(OUTSIDE, deliveries=newest_first)
    assert said("announcement", outside=outside).because[1:] == [
        (
            "最近一条微信消息（11:00）未送达：user block。",
            "The last one by wechat, at 11:00, was not delivered: user block.",
        ),
        ("最近一条站内信消息（10:00）已发送。", "The last one by inbox, at 10:00, was sent."),
    ]


def test_no_sentence_goes_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that says something, in any rule's module, is passed by the tests above."""
    modules = (
        balances, batches, customers, explanations, interests, lines, recharges, runs
    )  # fmt: skip
    passed: set[tuple[str, int]] = set()

    def noting(*said: str) -> Sentence:
        frame = sys._getframe(1)
        passed.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        return Sentence(*said)

    for module in modules:
        monkeypatch.setattr(module, "Sentence", noting)
    for name, test in sorted(globals().items()):
        if not name.startswith("test_") or name == "test_no_sentence_goes_untested":
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for case in marks[0].args[1] if marks else [()]:
            test(*case)
    for module in modules:
        path = Path(module.__file__ or "")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                if is_call and node.func.id == "Sentence":  # type: ignore[attr-defined]
                    assert (path.name, node.lineno) in passed, f"{path.name}:{node.lineno}"  # type: ignore[attr-defined]

"""From records in Kafka to messages on phones: a real worker, Kafka, Valkey and the stand-ins."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from app.sandbox.callbacks import Callback
from app.sandbox.run import running_sandbox
from app.sandbox.server import Sandbox
from tests.engine.inprocess import eventually
from tests.installation import PARTITIONS, Installation, Published
from tests.samples import account, announcement, call, recharge, ticks

pytestmark = pytest.mark.broker

FINAL = {"sent", "skipped", "failed"}
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
CALLBACK = {
    "DIALWATCH_WECHAT_CALLBACK_TOKEN": "sandboxtoken",
    "DIALWATCH_WECHAT_ENCODING_AES_KEY": AES_KEY,
}


@pytest.fixture
def sandbox(installation: Installation) -> Iterator[Sandbox]:
    """A stand-in that the installation's workers use."""
    with running_sandbox() as (made, environment):
        installation.variables |= environment
        yield made


async def test_all_eight_scenarios_reach_inbox_phone_and_sms(
    installation: Installation, sandbox: Sandbox
) -> None:
    acme = account(
        "acme",
        intent_classes=["A"],
        balance_threshold="50.00",
        expires_at="2019-02-02T00:00:00+08:00",
    )
    await installation.publish([acme, account("bob", openid=None)])
    worker = installation.worker(**CALLBACK)
    sandbox.driver.callback = Callback(
        url=f"{worker.url}/receive/wechat/callback",
        token="sandboxtoken",
        encoding_aes_key=AES_KEY,
        mode="safe",
    )
    calls = [call("acme", 0, result="A", batch_size=2, submitted_at="2019-01-30T14:00:00+08:00")]
    calls += [
        call("acme", 1, balance="49.90", batch_size=2, submitted_at=calls[0].value["submitted_at"])
    ]
    calls += [call("acme", index, result="F") for index in range(2, 102)]
    calls += [call("bob", index, result="W", line_id="broken") for index in range(100)]
    await installation.publish(calls)
    # Otherwise a tick of the day could pass before the call that takes the balance down.
    await installation.wait_for("notifications", lambda seen: len(seen) == 11)
    await installation.publish(
        [
            recharge("acme", "r1"),
            announcement("up"),
            announcement("none", kind="other"),
            *ticks("2019-01-30T16:00:00+08:00", PARTITIONS),
        ]
    )

    expected = Counter(
        {
            ("interested_customer", "acme"): 2,
            ("batch_completed", "acme"): 2,
            ("unreachable_run", "acme"): 2,
            ("line_error_run", "bob"): 2,
            ("announcement", "acme"): 2,
            ("announcement", "bob"): 2,
            ("low_balance", "acme"): 3,
            ("recharge_received", "acme"): 3,
            ("account_expiring", "acme"): 3,
        }
    )
    whole = expected.total()
    await installation.wait_for("notifications", lambda seen: len(seen) >= whole)
    deliveries = await installation.wait_for(
        "deliveries",
        lambda seen: (
            len([one for one in seen if one["status"] in FINAL]) >= whole
            and len([one for one in seen if one["status"] == "delivered"]) >= 7
        ),
    )
    commands = await installation.read_values("notifications")
    assert Counter((one["scenario"], one["account_id"]) for one in commands) == expected

    finals = [one for one in deliveries if one["status"] in FINAL]
    assert sorted(one["notification_id"] for one in finals) == sorted(
        one["notification_id"] for one in commands
    )
    assert Counter((one["channel"], one["status"], one.get("error")) for one in finals) == {
        ("inbox", "sent", None): 9,
        ("wechat", "sent", None): 7,
        ("wechat", "skipped", "no openid"): 2,
        ("sms", "sent", None): 3,
    }
    delivered = [one for one in deliveries if one["status"] == "delivered"]
    sent = {
        one["provider_id"]: one["notification_id"]
        for one in finals
        if one["channel"] == "wechat" and one["status"] == "sent"
    }
    assert {one["provider_id"]: one["notification_id"] for one in delivered} == sent

    assert len(await installation.read("inbox-messages")) == 9
    assert len(sandbox.wechat.messages) == 7
    interested = next(
        one for one in sandbox.wechat.messages if one.data["keyword2"] == "A类意向客户"
    )
    assert interested.openid == "openid_acme"
    assert interested.data == {
        "first": "你好！",
        "keyword1": "acme公司",
        "keyword2": "A类意向客户",
        "keyword3": "客户号码：13700000000，点击查看详细通话记录，及时进行客户跟进",
        "keyword4": "2019-01-30 15:52:10",
        "remark": "通知结束",
    }
    assert {text.text for text in sandbox.gateway.texts.values()} == {
        "【硅基智能】尊敬的acme公司，您的账户余额已不足￥50.00，为了不影响您的外呼任务，请及时充值。"
        "详情请登录后台费用中心进行查看，感谢您的使用。",
        "【硅基智能】尊敬的acme公司，您的充值已成功，您的账户当前余额￥120.00。",
        "【硅基智能】尊敬的acme公司，您的账户即将到期，请联系您的销售经理进行延期。",
    }

    worker.terminate()
    assert worker.wait_exit() == 0
    log = worker.log.read_text()
    assert "13700000000" not in log
    assert "openid_acme" not in log
    assert "access_token" not in log


async def test_rubbish_goes_to_dead_letters_byte_for_byte_and_the_stream_goes_on(
    installation: Installation,
) -> None:
    rubbish = [
        (b"acme", b"{"),
        (None, b'{"call_id": 1}'),
        (b"other", call("acme", 0).value),
        (b"acme", b"\xff\xfe"),
        (b"acme", None),
        (b"acme", call("acme", 0, result="G").value),
        (b"acme", b"[" + b" " * 1_048_450),  # the longest that a broker takes by default
        (b"acme", call("acme", 0, batch_index=1000).value),
        (b"acme", call("acme", 0, ended_at="2019-01-30 15:52:10").value),
    ]
    records = [Published("call-records", key, value) for key, value in rubbish]
    runs = [call("acme", index, result="F") for index in range(100)]
    await installation.publish([*runs[:50], *records, *runs[50:]])
    installation.worker()
    await installation.wait_for("notifications", lambda seen: len(seen) == 2)

    # They lie in other partitions than the run, and may be folded after it.
    letters: list[Any] = []

    async def are_there() -> bool:
        letters[:] = await installation.read("dead-letters")
        return len(letters) >= len(rubbish)

    await eventually(are_there, "all of it is a letter", within_s=60.0)
    sources = [one for one in await installation.read("call-records")]
    originals = {(one.partition, one.offset): one for one in sources}
    assert len(letters) == len(rubbish)
    for letter in letters:
        headers = {name: value.decode() for name, value in letter.headers}
        place = int(headers["dialwatch.partition"]), int(headers["dialwatch.offset"])
        assert headers["dialwatch.topic"] == installation.topics.calls
        assert (letter.key, letter.value) == (originals[place].key, originals[place].value)
        assert headers["dialwatch.at"]
    reasons = {dict(one.headers)["dialwatch.reason"].decode().partition(":")[0] for one in letters}
    assert reasons == {"value", "call_id", "key", "result", "batch_index", "ended_at"}


async def test_kill_minus_nine_loses_nothing_and_tells_nothing_twice(
    installation: Installation, sandbox: Sandbox
) -> None:
    await installation.publish([account("acme", intent_classes=["A"])])
    worker = installation.worker()
    size = 3000
    calls = [
        call("acme", index, batch_size=size, result="A" if index % 50 == 0 else "F")
        for index in range(size)
    ]
    for part in range(6):
        await installation.publish(calls[part * 500 : part * 500 + 500])
        if part in {1, 3}:
            worker.kill()
            worker.start()
    whole = size // 50 * 2 + 2
    await installation.wait_for("deliveries", lambda seen: len(seen) >= whole)
    commands = await installation.read_values("notifications")
    assert len({one["notification_id"] for one in commands}) == len(commands) == whole
    finals = [one["notification_id"] for one in await installation.read_values("deliveries")]
    assert len(finals) == len(set(finals)) == whole
    phones = Counter(one.client_msg_id for one in sandbox.wechat.messages)
    assert set(phones.values()) == {1}
    assert len(phones) == whole // 2

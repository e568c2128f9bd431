"""The callback, from the request to Kafka: what WeChat may say, and what nobody else may."""

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from aiokafka.errors import KafkaConnectionError
from redis.asyncio import Redis

from agents.channel import Entry, LaterWord
from app.channels.wechat import crypto
from app.channels.wechat.receipts import Receipt, Receipts
from app.channels.wechat.subscriptions import Subscriptions
from app.ledger import RedisLedger
from tests.installation import PATIENCE_SECONDS
from tests.wechat.conftest import Recorder

PATH = "/receive/wechat/callback"
TOKEN, APP_ID = "callbacktoken", "wxtest"
KEY, PREVIOUS, FOREIGN = "k" * 43, "p" * 43, "f" * 43

Client = TestClient[Any, Any]


def query(nonce: str, *, at: float | None = None, sealed: str = "") -> dict[str, str]:
    timestamp = str(int(time.time() if at is None else at))
    made = {"timestamp": timestamp, "nonce": nonce}
    made["signature"] = crypto.signature(TOKEN, timestamp, nonce)
    if sealed:
        made["msg_signature"] = crypto.signature(TOKEN, timestamp, nonce, sealed)
        made["encrypt_type"] = "aes"
    return made


def event(name: str = "subscribe", **fields: str) -> bytes:
    said = {
        "ToUserName": "gh_1",
        "FromUserName": "openid1",
        "CreateTime": "1548834730",
        "MsgType": "event",
        "Event": name,
        **fields,
    }
    inner = "".join(f"<{key}><![CDATA[{value}]]></{key}>" for key, value in said.items())
    return f"<xml>{inner}</xml>".encode()


def sealed_xml(key: str, message: bytes, app_id: str = APP_ID) -> tuple[str, bytes]:
    sealed = crypto.encrypt(key, app_id, message)
    return sealed, f"<xml><ToUserName>gh_1</ToUserName><Encrypt>{sealed}</Encrypt></xml>".encode()


async def test_the_address_is_verified_by_its_signature(client: Client) -> None:
    right = query("n1") | {"echostr": "echo-me"}
    answer = await client.get(PATH, params=right)
    assert (answer.status, await answer.text()) == (200, "echo-me")
    for wrong in (
        right | {"signature": "0" * 40},
        query("n1", at=time.time() - 301) | {"echostr": "echo-me"},
        {"echostr": "echo-me"},
    ):
        answer = await client.get(PATH, params=wrong)
        assert answer.status == 403
        assert "echo-me" not in await answer.text()


async def test_a_plain_event_is_published_once_and_a_repeat_gets_the_same_answer(
    client: Client, recorder: Recorder
) -> None:
    params = query("n1")
    body = event("SCAN", EventKey="invite-7", Ticket="t")
    for _ in range(3):
        answer = await client.post(PATH, params=params, data=body)
        assert (answer.status, await answer.text()) == (200, "success")
    ((topic, key, value),) = recorder.records
    assert (topic, key) == ("wechat-events", b"openid1")
    said = json.loads(value)
    assert said.pop("event_id")
    assert said == {
        "event": "SCAN",
        "openid": "openid1",
        "scene": "invite-7",
        "at": "2019-01-30T15:52:10+08:00",
        "fields": {
            "ToUserName": "gh_1",
            "MsgType": "event",
            "EventKey": "invite-7",
            "Ticket": "t",
        },
    }


async def test_a_signature_that_does_not_cover_the_body_opens_one_body_only(
    client: Client, recorder: Recorder, redis: Redis
) -> None:
    # Each made once: a second later it would be another request.
    params, second, third, fourth = (query(nonce) for nonce in ("n1", "n2", "n3", "n4"))
    assert (await client.post(PATH, params=params, data=event())).status == 200
    forged = event("unsubscribe", CreateTime="1548834731")
    assert (await client.post(PATH, params=params, data=forged)).status == 403
    # The same of a repeat under another signature, of a person's message and of the check of the
    # address: each has used its signature up.
    assert (await client.post(PATH, params=second, data=event())).status == 200
    assert (await client.post(PATH, params=second, data=forged)).status == 403
    text = event(CreateTime="1548834735").replace(b"event", b"text")
    assert (await client.post(PATH, params=third, data=text)).status == 200
    assert (await client.post(PATH, params=third, data=text)).status == 200
    assert (await client.post(PATH, params=third, data=forged)).status == 403
    assert (await client.get(PATH, params=fourth | {"echostr": "e"})).status == 200
    assert (await client.get(PATH, params=fourth | {"echostr": "e"})).status == 200
    assert (await client.post(PATH, params=fourth, data=forged)).status == 403
    assert len(recorder.records) == 1
    assert not await Subscriptions(redis, "dialwatch").is_unsubscribed("openid1")


async def test_the_scene_of_a_new_follower_comes_without_its_prefix(
    client: Client, recorder: Recorder
) -> None:
    await client.post(PATH, params=query("n1"), data=event(EventKey="qrscene_invite-7"))
    await client.post(PATH, params=query("n2"), data=event(EventKey="", CreateTime="1548834731"))
    # A scene may itself begin like the prefix; what a follower scanned has none.
    await client.post(PATH, params=query("n3"), data=event(EventKey="qrscene_qrscene_7"))
    await client.post(PATH, params=query("n4"), data=event("SCAN", EventKey="qrscene_7"))
    await client.post(PATH, params=query("n5"), data=event(EventKey="scanbarcode|CODE,1"))
    scenes = [json.loads(value)["scene"] for value in recorder.of("wechat-events")]
    assert scenes == ["invite-7", None, "qrscene_7", "qrscene_7", None]


async def test_json_bodies_say_the_same(client: Client, recorder: Recorder) -> None:
    said = {"FromUserName": "openid1", "CreateTime": 1548834730, "MsgType": "event", "Event": "X"}
    answer = await client.post(PATH, params=query("n1"), data=json.dumps(said))
    assert answer.status == 200
    assert json.loads(recorder.of("wechat-events")[0])["at"] == "2019-01-30T15:52:10+08:00"


async def test_what_is_nested_is_json_and_texts_are_as_they_were_sent(
    client: Client, recorder: Recorder
) -> None:
    picture = "<item><PicMd5Sum>{}</PicMd5Sum></item>"
    more = f"""
      <EventKey> k </EventKey><Empty/>
      <ScanCodeInfo>
        <ScanType>qrcode</ScanType><ScanResult><![CDATA[1 "<"]]></ScanResult>
      </ScanCodeInfo>
      <SendPicsInfo><Count>2</Count>
        <PicList>{picture.format("a")}{picture.format("b")}</PicList></SendPicsInfo>
      <Mixed>x<B>1</B></Mixed>"""
    body = event("scancode_push").replace(b"</xml>", f"{more}</xml>".encode())
    body = body.replace(b"<![CDATA[1548834730]]>", b"\n1548834730\n")
    assert (await client.post(PATH, params=query("n1"), data=body)).status == 200
    said = json.loads(recorder.of("wechat-events")[0])
    assert said["at"] == "2019-01-30T15:52:10+08:00"
    fields = said["fields"]
    assert (fields["EventKey"], fields["Empty"]) == (" k ", "")
    assert json.loads(fields["ScanCodeInfo"]) == {"ScanType": "qrcode", "ScanResult": '1 "<"'}
    pictures = {"item": [{"PicMd5Sum": "a"}, {"PicMd5Sum": "b"}]}
    assert json.loads(fields["SendPicsInfo"]) == {"Count": "2", "PicList": pictures}
    assert json.loads(fields["Mixed"]) == {"#text": "x", "B": "1"}
    # A JSON body says the same.
    nested = {name: json.loads(fields[name]) for name in ("ScanCodeInfo", "SendPicsInfo", "Mixed")}
    whole = fields | nested | {"FromUserName": "openid1", "CreateTime": 1548834731, "Event": "x"}
    assert (await client.post(PATH, params=query("n2"), data=json.dumps(whole))).status == 200
    assert json.loads(recorder.of("wechat-events")[1])["fields"] == fields


FORBIDDEN = {
    "control character": b"\x1d",
    "no character": "\uffff".encode(),
    "half an emoji": b"\xed\xa0\xbd",
    "cut UTF-8": b"\xe4\xbd",
    "no UTF-8": b"\xff",
    "NUL": b"\0",
}


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_what_no_xml_may_hold_is_left_out_of_what_a_follower_wrote(
    name: str, client: Client, recorder: Recorder
) -> None:
    body = event("SCAN", EventKey="你-here-好").replace(b"-here-", FORBIDDEN[name])
    assert (await client.post(PATH, params=query("n1"), data=body)).status == 200
    said = json.loads(recorder.of("wechat-events")[0])
    assert (said["scene"], said["fields"]["EventKey"]) == ("你好", "你好")
    # A person's message is heard, and published nowhere.
    text = event(MsgType="text", Content="-here-").replace(b"-here-", FORBIDDEN[name])
    assert (await client.post(PATH, params=query("n2"), data=text)).status == 200


@pytest.mark.parametrize(
    "number", ["&#x1D;", "&#29;", "&#xD83D;", "&#xFFFF;", "&#0;", "&#99999999;"]
)
async def test_a_forbidden_character_by_its_number_is_left_out_and_in_cdata_it_is_text(
    number: str, client: Client, recorder: Recorder
) -> None:
    body = event("SCAN", EventKey=number, Ticket="t")
    body = body.replace(b"<![CDATA[t]]>", f"a{number}&#x4f60;b".encode())
    assert (await client.post(PATH, params=query("n1"), data=body)).status == 200
    fields = json.loads(recorder.of("wechat-events")[0])["fields"]
    assert (fields["EventKey"], fields["Ticket"]) == (number, "a你b")


@pytest.mark.parametrize(
    "escaped", [b"\\ud83d", b"\\u001d", b"\x1d", b"\xe4\xbd", b"\\uffff", b"\0"]
)
async def test_json_bodies_lose_the_same_characters(
    escaped: bytes, client: Client, recorder: Recorder
) -> None:
    said = {"FromUserName": "openid1", "CreateTime": 1548834730, "MsgType": "event", "Event": "X"}
    body = json.dumps(said | {"Word": "a-here-b", "List": ["-here-"]}).encode()
    body = body.replace(b"-here-", escaped)
    assert (await client.post(PATH, params=query("n1"), data=body)).status == 200
    assert json.loads(recorder.of("wechat-events")[0])["fields"]["Word"] == "ab"


async def test_leaving_out_characters_makes_no_document_type(
    client: Client, recorder: Recorder
) -> None:
    body = b'<!DOC\x1dTYPE x [<!ENTITY e "e">]><xml><Event>&\x1de;</Event></xml>'
    assert (await client.post(PATH, params=query("n1"), data=body)).status == 403
    assert recorder.records == []


@pytest.mark.parametrize(
    ("age_s", "wrong", "body"),
    [
        (0, {"signature": "0" * 40}, event()),
        (0, {"timestamp": "1"}, event()),
        (0, {"signature": ""}, event()),
        (3600, {}, event()),
        (0, {}, b"<!DOCTYPE x><xml></xml>"),
        (0, {}, b'<!DOCTYPE x [<!ENTITY e "e">]><xml><Event>&e;</Event></xml>'),
        (0, {}, b"rubbish"),
        (0, {}, b""),
        (0, {}, event(CreateTime="soon")),
        (0, {}, event(CreateTime="0" * 20 + "9" * 14)),
        (0, {}, b"<xml>" + b"x" * 65_536 + b"</xml>"),
        (0, {}, sealed_xml(KEY, event())[1]),
    ],
)
async def test_what_is_not_wechats_gets_403_and_changes_nothing(
    client: Client, recorder: Recorder, age_s: float, wrong: dict[str, str], body: bytes
) -> None:
    # Signed now: when tests are collected is long before some are run.
    params = query("n", at=time.time() - age_s) | wrong
    answer = await client.post(PATH, params=params, data=body)
    assert answer.status == 403
    assert recorder.records == []


class TestWithAKey:
    """Compatible and safe mode: only what is encrypted counts."""

    @pytest.fixture
    def settings_given(self) -> dict[str, str]:
        return {
            "wechat_app_id": APP_ID,
            "wechat_callback_token": TOKEN,
            "wechat_encoding_aes_key": KEY,
            "wechat_encoding_aes_key_previous": PREVIOUS,
        }

    async def test_a_forbidden_character_is_left_out_of_an_encrypted_message_too(
        self, client: Client, recorder: Recorder
    ) -> None:
        said = event("SCAN", EventKey="a-here-b").replace(b"-here-", b"\x1d\xed\xa0\xbd")
        sealed, body = sealed_xml(KEY, said)
        answer = await client.post(PATH, params=query("n1", sealed=sealed), data=body)
        assert answer.status == 200
        assert json.loads(recorder.of("wechat-events")[0])["scene"] == "ab"

    @pytest.mark.parametrize("key", [KEY, PREVIOUS])
    async def test_the_present_and_the_previous_key_open(
        self, client: Client, recorder: Recorder, key: str
    ) -> None:
        sealed, body = sealed_xml(key, event())
        answer = await client.post(PATH, params=query("n1", sealed=sealed), data=body)
        assert answer.status == 200
        assert len(recorder.of("wechat-events")) == 1

    async def test_in_compatible_mode_the_clear_fields_count_for_nothing(
        self, client: Client, recorder: Recorder
    ) -> None:
        sealed = crypto.encrypt(KEY, APP_ID, event("subscribe"))
        body = event("unsubscribe").replace(
            b"</xml>", f"<Encrypt>{sealed}</Encrypt></xml>".encode()
        )
        await client.post(PATH, params=query("n1", sealed=sealed), data=body)
        (value,) = recorder.of("wechat-events")
        assert json.loads(value)["event"] == "subscribe"

    async def test_in_clear_with_a_foreign_key_or_for_another_appid_is_403(
        self, client: Client, recorder: Recorder
    ) -> None:
        requests = [(query("n1"), event()), (query("n1") | {"encrypt_type": "raw"}, event())]
        for key, app_id in ((FOREIGN, APP_ID), (KEY, "wxother")):
            sealed, body = sealed_xml(key, event(), app_id)
            requests.append((query("n1", sealed=sealed), body))
        sealed, body = sealed_xml(KEY, event())
        requests.append((query("n1"), body))  # only the outer signature
        requests.append((query("n1", sealed=sealed) | {"msg_signature": "0" * 40}, body))
        for params, sent in requests:
            assert (await client.post(PATH, params=params, data=sent)).status == 403
        assert recorder.records == []


async def remember(redis: Redis, msgid: str, receipt: Receipt) -> LaterWord | None:
    """End a message as the sender does: what is returned came first."""
    claim = Receipts(redis, "dialwatch").claim(msgid, receipt)
    return await RedisLedger(redis, "dialwatch").finish("n", Entry("t-0-1", deliveries=[]), claim)


async def test_a_finished_job_becomes_a_delivery_of_its_notification(
    client: Client, recorder: Recorder, redis: Redis
) -> None:
    await remember(redis, "3487542469355618313", Receipt("id1", "acme", "low_balance", 2, b"acme"))
    await remember(redis, "3487542469355618314", Receipt("id2", "acme", "low_balance", 1, b"acme"))
    for number, status in ((3, "success"), (4, "failed: system failed")):
        body = event("TEMPLATESENDJOBFINISH", MsgID=f"348754246935561831{number}", Status=status)
        for nonce in ("a", "b"):  # WeChat's own repeat may come with another nonce
            await client.post(PATH, params=query(f"{nonce}{number}"), data=body)
    deliveries = [json.loads(value) for value in recorder.of("deliveries")]
    assert [(one["notification_id"], one["status"], one.get("error")) for one in deliveries] == [
        ("id1", "delivered", None),
        ("id2", "undelivered", "failed: system failed"),
    ]
    assert deliveries[0]["attempts"] == 2
    assert deliveries[0]["provider_id"] == "3487542469355618313"


async def test_a_word_that_comes_before_the_answer_waits_for_it(
    client: Client, recorder: Recorder, redis: Redis
) -> None:
    body = event("TEMPLATESENDJOBFINISH", MsgID="77", Status="success")
    assert (await client.post(PATH, params=query("n1"), data=body)).status == 200
    assert recorder.of("deliveries") == []
    word = await remember(redis, "77", Receipt("id", "a", "s", 1, b"a"))
    assert word is not None
    assert word.status == "delivered"


async def test_unsubscribe_holds_until_the_next_subscribe(client: Client, redis: Redis) -> None:
    subscriptions = Subscriptions(redis, "dialwatch")
    await client.post(PATH, params=query("n1"), data=event("unsubscribe"))
    assert await subscriptions.is_unsubscribed("openid1")
    await client.post(PATH, params=query("n2"), data=event("subscribe", CreateTime="1548834731"))
    assert not await subscriptions.is_unsubscribed("openid1")


@pytest.mark.parametrize(
    ("said", "follows"),
    [
        (event("SCAN", CreateTime="1548834731"), True),
        (event("CLICK", CreateTime="1548834731", EventKey="k"), True),
        (event("VIEW", CreateTime="1548834731"), True),
        (event("LOCATION", CreateTime="1548834731"), True),
        (event("TEMPLATESENDJOBFINISH", CreateTime="1548834731", Status="success"), True),
        (event(CreateTime="1548834731").replace(b"[event]", b"[text]"), True),
        # Came late, tells of a block, or comes from anybody.
        (event("SCAN", CreateTime="1548834729"), False),
        (event("TEMPLATESENDJOBFINISH", CreateTime="1548834731", Status="failed:x"), False),
        (event("user_get_card", CreateTime="1548834731"), False),
    ],
)
async def test_what_only_a_follower_can_cause_ends_the_mark_of_an_unsubscribe(
    client: Client, redis: Redis, said: bytes, follows: bool
) -> None:
    await client.post(PATH, params=query("n1"), data=event("unsubscribe"))
    assert (await client.post(PATH, params=query("n2"), data=said)).status == 200
    assert await Subscriptions(redis, "dialwatch").is_unsubscribed("openid1") is not follows


async def test_a_slow_broker_makes_no_second_delivery_of_what_wechat_sends_again(
    client: Client, recorder: Recorder, redis: Redis
) -> None:
    await remember(redis, "7", Receipt("id1", "acme", "s", 1, b"acme"))
    recorder.answers.clear()
    body = event("TEMPLATESENDJOBFINISH", MsgID="7", Status="success")
    first = asyncio.create_task(client.post(PATH, params=query("n1"), data=body))
    statuses = []
    # As WeChat does after 5 s, with the same nonce or another.
    async with asyncio.timeout(PATIENCE_SECONDS):
        for nonce in ("n1", "n2"):
            await asyncio.sleep(5)
            statuses.append((await client.post(PATH, params=query(nonce), data=body)).status)
    assert statuses == [503, 503]
    recorder.answers.set()
    assert (await first).status == 200
    for nonce in ("n1", "n2"):
        assert (await client.post(PATH, params=query(nonce), data=body)).status == 200
    assert len(recorder.of("deliveries")) == len(recorder.of("wechat-events")) == 1


async def test_without_kafka_the_answer_is_503_and_the_repeat_counts(
    client: Client, recorder: Recorder
) -> None:
    recorder.error = KafkaConnectionError()
    params = query("n1")
    assert (await client.post(PATH, params=params, data=event())).status == 503
    recorder.error = None
    assert (await client.post(PATH, params=params, data=event())).status == 200
    assert len(recorder.of("wechat-events")) == 1


async def test_of_requests_at_the_same_moment_one_is_handled(
    client: Client, recorder: Recorder
) -> None:
    bodies = [(query(nonce), event()) for nonce in ("a", "a", "b", "b")]
    answers = [client.post(PATH, params=params, data=body) for params, body in bodies]
    statuses = {answer.status for answer in await asyncio.gather(*answers)}
    assert statuses <= {200, 503}  # who came too early asks again
    assert 200 in statuses
    assert len(recorder.of("wechat-events")) == 1
    for params, body in bodies:
        assert (await client.post(PATH, params=params, data=body)).status == 200
    assert len(recorder.of("wechat-events")) == 1

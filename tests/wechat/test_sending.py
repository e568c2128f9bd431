"""The sending service, as other services of the platform call it."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from app.web import wechat_callback, wechat_send
from app.web.listener import read_body
from app.web.wechat_send import SendRequest
from streams.decoding import decode_notification
from tests.installation import PATIENCE_SECONDS
from tests.wechat.conftest import Recorder
from tests.wechat.test_callback import query

AUTHORIZED = {"Authorization": "Bearer ops-token"}
BODY = {"openID": "openid1", "templateId": "template1", "data": {"keyword1": "您好"}}

Client = TestClient[Any, Any]


async def send(client: Client, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = await client.post(
        "/wechat/send", json=BODY if body is None else body, headers=AUTHORIZED | headers
    )
    return answer.status, await answer.json()


async def test_a_message_becomes_a_command_with_the_openid_as_key(
    client: Client, recorder: Recorder
) -> None:
    status, said = await send(client, BODY | {"url": "https://x.example", "appId": "wx9"})
    assert (status, said["code"], said["msg"]) == (200, 0, "ok")
    ((topic, key, value),) = recorder.records
    assert (topic, key) == ("notifications", b"openid1")
    command = decode_notification(key, value)
    assert command.notification_id == said["data"]
    assert (command.scenario, command.account_id, command.channel) == ("direct", None, "wechat")
    assert (command.openid, command.template_id) == ("openid1", "template1")
    assert command.data == {"keyword1": "您好"}
    assert (command.url, command.app_id) == ("https://x.example", "wx9")


async def test_half_an_emoji_in_an_unknown_field_is_ignored_and_in_a_known_one_named(
    client: Client, recorder: Recorder
) -> None:
    for more, status in (({"memo": "\ud83d"}, 200), ({"data": {"first": "\ud83d"}}, 400)):
        body = json.dumps(BODY | more)
        answer = await client.post("/wechat/send", data=body, headers=AUTHORIZED)
        assert (answer.status, len(recorder.records)) == (status, 1)
    assert (await answer.json())["msg"].startswith("data: ")


async def test_data_is_optional(client: Client, recorder: Recorder) -> None:
    status, _ = await send(client, {"openID": "o1", "templateId": "t1"})
    assert status == 200
    assert decode_notification(*recorder.records[0][1:]).data == {}


async def test_an_idempotency_key_makes_a_repeat_the_same_notification(client: Client) -> None:
    first, again, other = [
        (await send(client, **{"Idempotency-Key": key}))[1]["data"] for key in ("k1", "k1", "k2")
    ]
    without = {(await send(client))[1]["data"] for _ in range(2)}
    assert first == again
    assert len({first, other, *without}) == 4


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"templateId": "t"}, "openID"),
        ({"openID": "o"}, "templateId"),
        ({"openID": "", "templateId": "t"}, "openID"),
        ({"openID": "o", "templateId": 7}, "templateId"),
        ({"openID": "o", "templateId": "t", "data": {"a": 1}}, "data"),
        ({"openID": "o", "templateId": "t", "data": {"a": None}}, "data"),
        ({"openID": "o", "templateId": "t", "data": {"a": {"value": "b"}}}, "data"),
        ({"openID": "o", "templateId": "t", "data": ["a"]}, "data"),
        ({"openID": "o", "templateId": "t", "url": 1}, "url"),
        ({"openID": "o", "templateId": "t", "url": "x" * 2049}, "url"),
        ({"openID": "o", "templateId": "t", "appId": 1}, "appId"),
        ({"openID": "o", "templateId": "t", "pagePath": []}, "pagePath"),
        ({"openID": None, "templateId": "t"}, "openID"),
        ({"openID": "a b", "templateId": "t"}, "openID"),
        ({"openID": "o" * 129, "templateId": "t"}, "openID"),
        ({"openID": "o", "templateId": "t" * 513}, "templateId"),
        ({"openID": "o", "templateId": "t", "appId": "a" * 513}, "appId"),
        ([], "object"),
        (7, "object"),
    ],
)
async def test_a_bad_request_is_400_and_names_the_field(
    client: Client, recorder: Recorder, body: Any, field: str
) -> None:
    status, said = await send(client, body)
    assert status == said["code"] == 400
    assert field in said["msg"]
    assert recorder.records == []


async def test_what_a_command_may_hold_a_request_may_too(
    client: Client, recorder: Recorder
) -> None:
    longest = {
        "openID": "o" * 128,
        "templateId": "t" * 512,
        "url": "u" * 2048,
        "appId": "a" * 512,
        "pagePath": "p" * 2048,
    }
    assert (await send(client, longest))[0] == 200
    command = decode_notification(*recorder.records[0][1:])
    assert (command.template_id, command.app_id) == ("t" * 512, "a" * 512)


async def test_it_needs_the_token(client: Client, recorder: Recorder) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é"}):
        answer = await client.post("/wechat/send", json=BODY, headers=headers)
        assert answer.status == 401
    assert recorder.records == []


async def test_without_kafka_it_says_so_and_what_makes_a_repeat_safe(
    client: Client, recorder: Recorder
) -> None:
    recorder.error = KafkaConnectionError()
    status, said = await send(client)
    assert status == said["code"] == 503
    assert "unknown, repeat with the same Idempotency-Key" in said["msg"]


async def test_a_kafka_that_hangs_is_waited_for_so_long_only(
    client: Client, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wechat_send.PUBLISH_SECONDS < 10
    monkeypatch.setattr(wechat_send, "PUBLISH_SECONDS", 0.1)
    recorder.answers.clear()
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        status, said = await send(client)
    assert status == said["code"] == 503
    assert "unknown" in said["msg"]


async def test_what_no_record_can_hold_is_413(client: Client, recorder: Recorder) -> None:
    half = "字" * 11_000  # 33,000 bytes
    assert (await send(client, BODY | {"data": {"a": half}}))[0] == 200
    status, said = await send(client, BODY | {"data": {"a": half, "b": half}})
    assert status == said["code"] == 413
    assert said["msg"].startswith("data: ")
    recorder.error = MessageSizeTooLargeError()
    status, said = await send(client)
    assert status == said["code"] == 413
    assert len(recorder.records) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"openID":"o","templateId":"t","data":{"a":"\\ud800"}}',
        b'{"openID":"o","templateId":"t"} x',
        b"[" * 100_000,
        b" " * (1 << 20),
    ],
)
async def test_what_is_no_json_is_400(client: Client, recorder: Recorder, body: bytes) -> None:
    answer = await client.post("/wechat/send", data=body, headers=AUTHORIZED)
    assert answer.status == (await answer.json())["code"] == 400
    assert recorder.records == []


async def test_a_body_that_does_not_come_is_408(
    client: Client, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (wechat_send, wechat_callback):
        monkeypatch.setattr(module, "read_body", partial(read_body, within_s=0.05))
    for path, params in (("/wechat/send", {}), (wechat_callback.PATH, query("n1"))):
        end = asyncio.Event()

        async def body(end: asyncio.Event = end) -> AsyncIterator[bytes]:
            yield b"{"
            await end.wait()

        answer = await client.post(path, params=params, data=body(), headers=AUTHORIZED)
        assert answer.status == 408
        assert "time" in (await answer.text()).lower()
        end.set()
    assert recorder.records == []


@pytest.mark.parametrize("key", ["", "k" * 201])
async def test_a_key_that_is_empty_or_too_long_is_400(
    client: Client, recorder: Recorder, key: str
) -> None:
    status, said = await send(client, **{"Idempotency-Key": key})
    assert (status, recorder.records) == (400, [])
    assert said["msg"].startswith("Idempotency-Key")


async def test_repeats_at_the_same_moment_and_of_a_restarted_worker_name_one_notification(
    client: Client, recorder: Recorder
) -> None:
    asked = [send(client, **{"Idempotency-Key": "k1"}) for _ in range(20)]
    (named,) = {said["data"] for _, said in await asyncio.gather(*asked)}
    # It follows from what was asked alone: no worker has to remember it.
    assert named == "00109073cafe5418d0a536d59d7208af"
    ids = {decode_notification(key, value).notification_id for _, key, value in recorder.records}
    assert ids == {named}


async def test_the_description_is_of_what_is_served(client: Client) -> None:
    said = json.loads(await (await client.get("/openapi.json")).text())
    operation = said["paths"]["/wechat/send"]["post"]
    assert set(operation["responses"]) == {
        "200", "400", "401", "403", "408", "413", "503",
    }  # fmt: skip
    described = said["components"]["schemas"]["SendMsgReqVO"]
    _, components = msgspec.json.schema_components([SendRequest])
    served = components["SendRequest"]
    assert described["required"] == served["required"]
    assert described["properties"].keys() == served["properties"].keys()
    for name, details in described["properties"].items():
        limits = json.dumps(served["properties"][name])
        for limit in ("minLength", "maxLength"):
            assert f'"{limit}": {details[limit]}' in limits if limit in details else True, name
        if "pattern" in details:
            assert json.dumps(details["pattern"]) in limits
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert (await send(client, example))[0] == 200


class TestWithoutAToken:
    @pytest.fixture
    def settings_given(self) -> dict[str, str]:
        return {"wechat_app_id": "wxtest"}

    async def test_the_service_is_off(self, client: Client, recorder: Recorder) -> None:
        status, said = await send(client)
        assert status == 403
        assert "DIALWATCH_WEB_TOKEN" in said["msg"]
        assert recorder.records == []


def test_a_line_end_behind_an_open_id_is_no_part_of_one() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"openID":"abc\\n","templateId":"t"}', type=SendRequest)
    assert msgspec.json.decode(b'{"openID":"abc","templateId":"t"}', type=SendRequest)

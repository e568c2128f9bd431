"""The sending service, as other services of the platform call it."""

import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from aiokafka.errors import KafkaConnectionError

from streams.records import decode_notification
from tests.wechat.conftest import Recorder

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
        ({"openID": "o", "templateId": "t", "url": 1}, "url"),
        ([], "object"),
    ],
)
async def test_a_bad_request_is_400_and_names_the_field(
    client: Client, recorder: Recorder, body: Any, field: str
) -> None:
    status, said = await send(client, body)
    assert status == said["code"] == 400
    assert field in said["msg"]
    assert recorder.records == []


async def test_it_needs_the_token(client: Client, recorder: Recorder) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é"}):
        answer = await client.post("/wechat/send", json=BODY, headers=headers)
        assert answer.status == 401
    assert recorder.records == []


async def test_without_kafka_it_says_so_and_nothing_is_sent(
    client: Client, recorder: Recorder
) -> None:
    recorder.error = KafkaConnectionError()
    status, said = await send(client)
    assert status == said["code"] == 503


async def test_the_description_names_what_is_served(client: Client) -> None:
    said = json.loads(await (await client.get("/openapi.json")).text())
    assert "/wechat/send" in said["paths"]


class TestWithoutAToken:
    @pytest.fixture
    def settings_given(self) -> dict[str, str]:
        return {"wechat_app_id": "wxtest"}

    async def test_the_service_is_off(self, client: Client, recorder: Recorder) -> None:
        status, said = await send(client)
        assert status == 403
        assert "DIALWATCH_WEB_TOKEN" in said["msg"]
        assert recorder.records == []

"""The stand-in's callback driver against the real callback: what it sends, and what it attacks."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp.test_utils import TestClient

from app.sandbox.attacks import ATTACKS, SEALED_ONLY, Attack, send_attack
from app.sandbox.callbacks import Callback, CallbackDriver
from tests.wechat.conftest import Recorder

TOKEN, APP_ID, KEY = "callbacktoken", "wxtest", "k" * 43
MODES = [(mode, is_json) for mode in ("plain", "compatible", "safe") for is_json in (False, True)]
Client = TestClient[Any, Any]


@pytest.fixture(params=MODES, ids=lambda mode: f"{mode[0]}-{'json' if mode[1] else 'xml'}")
def mode(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def settings_given(mode: tuple[str, bool]) -> dict[str, str]:
    given = {"wechat_app_id": APP_ID, "wechat_callback_token": TOKEN}
    return given if mode[0] == "plain" else given | {"wechat_encoding_aes_key": KEY}


@pytest.fixture
async def driver(client: Client, mode: tuple[str, bool]) -> AsyncIterator[CallbackDriver]:
    async with httpx.AsyncClient(trust_env=False) as http:
        made = CallbackDriver(APP_ID, time.time, http)
        url = str(client.make_url("/receive/wechat/callback"))
        made.callback = Callback(
            url=url, token=TOKEN, encoding_aes_key=KEY, mode=mode[0], is_json=mode[1]
        )
        yield made


async def test_an_event_of_the_stand_in_is_believed(
    driver: CallbackDriver, recorder: Recorder
) -> None:
    assert await driver.send("o-1", "subscribe", EventKey="qrscene_七 & <7>") == 200
    (value,) = recorder.of("wechat-events")
    assert json.loads(value)["scene"] == "七 & <7>"
    assert driver.refused == 0


@pytest.mark.parametrize("attack", ATTACKS)
async def test_every_attack_is_refused_and_changes_nothing(
    attack: Attack, driver: CallbackDriver, recorder: Recorder, mode: tuple[str, bool]
) -> None:
    if attack in SEALED_ONLY and mode[0] == "plain":
        return
    statuses = await send_attack(driver, attack, "o-1")
    events = [json.loads(value)["event"] for value in recorder.of("wechat-events")]
    if attack == "replay":
        # WeChat itself repeats what it wasn't answered in time.
        assert (statuses, events) == ([200, 200], ["VIEW"])
    elif attack == "other_body":
        assert (statuses, events) == ([200, 403], ["VIEW"])
    else:
        assert (statuses, events) == ([403], [])

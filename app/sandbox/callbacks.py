"""The other direction: WeChat's events, signed and encrypted as the console says, to a callback.

Repeated up to three times until they are answered with success, as WeChat does.
"""

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import Callable
from typing import Any, Literal
from xml.sax.saxutils import escape

import httpx
from msgspec import Struct

from app.wechat import crypto

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
TRIES = 3
MOST_AT_ONCE = 16


class Callback(Struct, kw_only=True, forbid_unknown_fields=True):
    """What the official account's console says of the callback."""

    url: str = ""
    """Empty: there is none."""
    token: str = ""
    encoding_aes_key: str = ""
    mode: Literal["plain", "compatible", "safe"] = "plain"
    is_json: bool = False


class CallbackDriver:
    """Sends events to the callback that is set."""

    def __init__(self, app_id: str, now: Callable[[], float], http: httpx.AsyncClient) -> None:
        self.callback = Callback()
        self.refused = 0
        self._app_id = app_id
        self._now = now
        self._http = http
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def send(self, openid: str, event: str, **fields: str) -> int | None:
        """Send one event; return the last status, None where nobody answered or no URL is set."""
        callback = self.callback
        if not callback.url:
            return None
        said = {
            "ToUserName": "gh_sandbox",
            "FromUserName": openid,
            "CreateTime": str(int(self._now())),
            "MsgType": "event",
            "Event": event,
            **fields,
        }
        status: int | None = None
        async with self._places:
            for _ in range(TRIES):
                query, body = self.request(said)
                try:
                    answer = await self._http.post(
                        callback.url, params=query, content=body, timeout=ANSWER_SECONDS
                    )
                    status = answer.status_code
                    if status == 200 and answer.text in {"success", ""}:
                        return status
                except httpx.HTTPError as error:
                    log.debug("the callback did not answer: %r", error)
        self.refused += 1
        return status

    def request(self, said: dict[str, str]) -> tuple[dict[str, str], bytes]:
        """Return the query and the body of one event, as the mode wants it."""
        callback = self.callback
        timestamp, nonce = str(int(self._now())), secrets.token_hex(5)
        query = {
            "signature": _signature(callback.token, timestamp, nonce),
            "timestamp": timestamp,
            "nonce": nonce,
            "openid": said["FromUserName"],
        }
        outer: dict[str, str] = {} if callback.mode == "safe" else dict(said)
        if callback.mode != "plain":
            sealed = crypto.encrypt(
                callback.encoding_aes_key, self._app_id, _write(said, callback.is_json)
            )
            query |= {
                "encrypt_type": "aes",
                "msg_signature": _signature(callback.token, timestamp, nonce, sealed),
            }
            outer |= {"ToUserName": said["ToUserName"], "Encrypt": sealed}
        return query, _write(outer, callback.is_json)


def _signature(*parts: str) -> str:
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()  # noqa: S324 (WeChat's)


def _write(fields: dict[str, Any], is_json: bool) -> bytes:
    if is_json:
        return json.dumps(fields, ensure_ascii=False).encode()
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return f"<xml>{inner}</xml>".encode()

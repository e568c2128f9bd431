"""Sends WeChat's events to a callback, signed and encrypted as set in the account's console.

An event is sent up to three times until it is answered with success, as WeChat does it.
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

from app.channels.wechat import crypto

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
TRIES = 3
PAUSE_SECONDS = 1.0
"""Between two tries: what is handled meanwhile is done by then, and what was away may be back."""
MOST_AT_ONCE = 16


class Callback(Struct, kw_only=True, forbid_unknown_fields=True):
    """The settings of the callback in the official account's console."""

    url: str = ""
    """Empty: there is no callback."""
    token: str = ""
    encoding_aes_key: str = ""
    mode: Literal["plain", "compatible", "safe"] = "plain"
    is_json: bool = False


class CallbackDriver:
    """Sends events to the callback."""

    def __init__(self, app_id: str, now: Callable[[], float], http: httpx.AsyncClient) -> None:
        self.callback = Callback()
        self.refused = 0
        self.app_id = app_id
        self._now = now
        self._http = http
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def send(self, openid: str, event: str, **fields: str) -> int | None:
        """Send one event; return the last HTTP status. None: nobody answered, or no URL is set."""
        return await self.tell(self.said(openid, event, fields))

    async def tell(self, said: dict[str, str]) -> int | None:
        """Send an event given by its fields. Sent again, it is a repeat."""
        if not self.callback.url:
            return None
        status: int | None = None
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            async with self._places:
                status, text = await self.post(*self.request(said))
            if status == 200 and text in {"success", ""}:
                return status
        self.refused += 1
        return status

    async def post(self, query: dict[str, str], body: bytes) -> tuple[int | None, str]:
        """Post a request; return the answer's status (None: nobody answered) and text."""
        try:
            answer = await self._http.post(
                self.callback.url, params=query, content=body, timeout=ANSWER_SECONDS
            )
        except httpx.HTTPError as error:
            log.debug("the callback did not answer: %r", error)
            return None, ""
        return answer.status_code, answer.text

    def said(self, openid: str, event: str, fields: dict[str, str]) -> dict[str, str]:
        """Return all fields of an event."""
        return {
            "ToUserName": "gh_sandbox",
            "FromUserName": openid,
            "CreateTime": str(int(self._now())),
            "MsgType": "event",
            "Event": event,
            **fields,
        }

    def request(
        self,
        said: dict[str, str],
        *,
        age_s: int = 0,
        wrap: Callable[[bytes], bytes] = lambda body: body,
    ) -> tuple[dict[str, str], bytes]:
        """Return the query and the body of one event, in the console's mode.

        `wrap` changes the body before it is encrypted; in plain mode, before it is sent.
        """
        callback = self.callback
        if callback.mode == "plain":
            return self.query(said, None, age_s=age_s), wrap(self.write(said))
        message = wrap(self.write(said))
        sealed = crypto.encrypt(callback.encoding_aes_key, self.app_id, message)
        outer = {} if callback.mode == "safe" else dict(said)
        outer |= {"ToUserName": said["ToUserName"], "Encrypt": sealed}
        return self.query(said, sealed, age_s=age_s), self.write(outer)

    def query(self, said: dict[str, str], sealed: str | None, *, age_s: int = 0) -> dict[str, str]:
        """Return the signed query of one request. `sealed`: the ciphertext; None: plain mode."""
        token = self.callback.token
        timestamp, nonce = str(int(self._now()) - age_s), secrets.token_hex(5)
        query = {
            "signature": _signature(token, timestamp, nonce),
            "timestamp": timestamp,
            "nonce": nonce,
            "openid": said["FromUserName"],
        }
        if sealed is not None:
            query["encrypt_type"] = "aes"
            query["msg_signature"] = _signature(token, timestamp, nonce, sealed)
        return query

    def write(self, fields: dict[str, str]) -> bytes:
        """Return a body in the console's format."""
        return _write(fields, self.callback.is_json)


def _signature(*parts: str) -> str:
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()  # noqa: S324 (WeChat's)


def _write(fields: dict[str, Any], is_json: bool) -> bytes:
    if is_json:
        return json.dumps(fields, ensure_ascii=False).encode()
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return f"<xml>{inner}</xml>".encode()

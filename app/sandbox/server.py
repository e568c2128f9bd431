"""The stand-in for WeChat and the SMS gateway as one HTTP server.

As WeChat:  POST /cgi-bin/stable_token, GET /cgi-bin/token, POST /cgi-bin/message/template/send,
            GET /cgi-bin/template/get_all_private_template, GET /cgi-bin/user/info,
            GET /cgi-bin/getcallbackip, POST /cgi-bin/qrcode/create,
            POST /cgi-bin/openapi/quota/get, POST /cgi-bin/clear_quota
As gateway: POST /sms
Control:    see `control.py`; GET / are the phones, for people

It does what is documented and what users report. What isn't known of the real one can be set in
`faults.py`: the answer to a repeated client_msg_id, and the MsgID in its event.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import SecretStr

from app.sandbox.addresses import Addresses
from app.sandbox.callbacks import CallbackDriver
from app.sandbox.faults import Dice, Faults
from app.sandbox.sms import Gateway, Text
from app.sandbox.tokens import IssuedTokens
from app.sandbox.wechat import ERRORS, Accounts, ArrivedMessage
from app.web.access import has_bearer

CONTROL = "/__sandbox"
"""The beginning of the control plane's paths (`control.py`), which have no faults."""
APP_ID = "wxsandbox00000000"
APP_SECRET = "sandbox-app-secret"  # noqa: S105 (of the stand-in: it opens nothing)
TEMPLATE_ID = "sandbox-template-0123456789012345678901234"
SMS_TOKEN = "sandbox-sms-token"  # noqa: S105 (the same)
LONGEST_QR_SECONDS = 2_592_000

OnArrival = Callable[[ArrivedMessage | Text], None]
_Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sandbox:
    """One stand-in. Belongs to one event loop."""

    def __init__(
        self,
        seed: int = 1,
        on_arrival: OnArrival = lambda message: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_arrival` is called with each message that reaches a phone; `clock` gives seconds."""
        self._clock = clock
        self.forward_s = 0.0
        self.faults = Faults()
        self.dice = Dice(seed)
        self.tokens = IssuedTokens(self.now)
        self.addresses = Addresses(self.now)
        self.wechat = Accounts(TEMPLATE_ID, self.dice, self.now)
        self.gateway = Gateway(self.now)
        self.http = httpx.AsyncClient(trust_env=False)
        self.driver = CallbackDriver(APP_ID, self.now, self.http)
        self.sends = 0
        self.scenes: dict[str, str] = {}
        """Ticket of a QR code → its scene."""
        self._on_arrival = on_arrival
        self._callbacks: set[asyncio.Task[int | None]] = set()

    def now(self) -> float:
        return self._clock() + self.forward_s

    def application(self) -> web.Application:
        """Return the web application with the providers' paths only; see
        `control.with_control_plane`."""
        app = web.Application(middlewares=[self._go_wrong])
        for path, answering in (
            ("/cgi-bin/stable_token", self._stable_token),
            ("/cgi-bin/token", self._classic_token),
            ("/cgi-bin/message/template/send", self._send),
            ("/cgi-bin/template/get_all_private_template", self._with_token(self._templates)),
            ("/cgi-bin/user/info", self._with_token(self._user)),
            ("/cgi-bin/getcallbackip", self._with_token(self._callback_ip)),
            ("/cgi-bin/qrcode/create", self._with_token(self._qr_code)),
            ("/cgi-bin/openapi/quota/get", self._with_token(self._quota)),
            ("/cgi-bin/clear_quota", self._with_token(self._clear_quota)),
        ):
            app.router.add_route("*", path, answering)
        app.router.add_post("/sms", self._sms)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, app: web.Application) -> None:
        for task in self._callbacks:
            task.cancel()
        await self.http.aclose()

    @web.middleware
    async def _go_wrong(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(CONTROL) or request.path == "/":
            return await handler(request)
        faults = self.faults
        if faults.latency_s:
            await asyncio.sleep(faults.latency_s)
        if faults.is_away:
            return web.Response(status=503, text="<html>503</html>")
        try:
            return await handler(request)
        except ConnectionResetError:  # the client was killed meanwhile
            return web.Response(status=400)

    # -- tokens -----------------------------------------------------------------------------

    async def _stable_token(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return _error(43002)
        body = await _json(request)
        if not isinstance(body, dict):
            return _error(47001)
        wrong = await self._token_error("stable", body)
        if wrong:
            return _error(wrong)
        token, left_s = self.tokens.stable(force_refresh=body.get("force_refresh") is True)
        return web.json_response({"access_token": token, "expires_in": left_s})

    async def _classic_token(self, request: web.Request) -> web.Response:
        wrong = await self._token_error("classic", dict(request.query))
        if wrong:
            return _error(wrong)
        token, left_s = self.tokens.classic()
        return web.json_response({"access_token": token, "expires_in": left_s})

    async def _token_error(self, family: str, said: dict[str, Any]) -> int:
        """Return the errcode for a request for a token; 0: it gets one."""
        if self.faults.token_hangs:
            await asyncio.sleep(self.faults.hang_s)
        if self.faults.token_answer is not None:
            return self.faults.token_answer
        if said.get("grant_type") != "client_credential":
            return 40002
        if said.get("appid") != APP_ID:
            return 40013
        if said.get("secret") != APP_SECRET:
            return 40125
        return self.addresses.error() or self.tokens.quota_error(family)

    # -- messages ---------------------------------------------------------------------------

    async def _send(self, request: web.Request) -> web.StreamResponse:
        """1. Check the token, 2. faults before accepting, 3. check the body, 4. accept, 5. faults
        after it."""
        self.sends += 1
        faults, dice = self.faults, self.dice
        if request.method != "POST":
            return _error(43002)
        wrong = self.tokens.error(request.query.get("access_token"))
        if wrong:
            return _error(wrong)
        if dice.hits(faults.reset):
            return _break(request)
        if dice.hits(faults.http_500):
            return web.Response(status=500, text="<html>500</html>")
        if dice.hits(faults.http_429):
            return web.Response(status=429, headers={"Retry-After": "1"}, text="too many")
        if dice.hits(faults.busy):
            return _error(-1)
        if faults.answer is not None:
            return _error(faults.answer)
        taken = self.wechat.take(await _json(request), faults)
        if taken.code:
            return _error(taken.code, taken.text)
        if taken.message is not None:
            self._on_arrival(taken.message)
            await self._finish_job(taken.message)
        if dice.hits(faults.hang_after_accept):
            await asyncio.sleep(faults.hang_s)
        if dice.hits(faults.drop_after_accept):
            return _break(request)
        text = f'{{"errcode":0,"errmsg":"ok","msgid":{taken.msgid}}}'
        if dice.hits(faults.truncated):
            text = text[:20]
        return web.Response(text=text, content_type="application/json")

    async def _finish_job(self, message: ArrivedMessage) -> None:
        faults, dice = self.faults, self.dice
        if not self.driver.callback.url or not dice.hits(faults.callback_share):
            return
        msgid = message.msgid if faults.callback_msgid == "msgid" else "0"
        fields = {"MsgID": msgid, "Status": faults.callback_status}
        said = self.driver.said(message.openid, "TEMPLATESENDJOBFINISH", fields)

        async def tell(after_s: float) -> int | None:
            await asyncio.sleep(after_s)
            return await self.driver.tell(said)

        for _ in range(2 if dice.hits(faults.callback_twice) else 1):
            if faults.callback_before_answer:
                await tell(0)
                continue
            task = asyncio.create_task(tell(dice.part(faults.callback_delay_s)))
            self._callbacks.add(task)
            task.add_done_callback(self._callbacks.discard)

    # -- the rest of WeChat -----------------------------------------------------------------

    def _with_token(self, answering: _Answering) -> _Answering:
        async def answer(request: web.Request) -> web.StreamResponse:
            wrong = self.tokens.error(request.query.get("access_token"))
            return _error(wrong) if wrong else await answering(request)

        return answer

    async def _templates(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "template_list": [
                    {
                        "template_id": template_id,
                        "title": "通知",
                        "content": self.wechat.text_of(template_id),
                    }
                    for template_id in self.wechat.templates
                ]
            }
        )

    async def _user(self, request: web.Request) -> web.Response:
        openid = request.query.get("openid", "")
        follows = int(openid not in self.wechat.strangers)
        return web.json_response({"subscribe": follows, "openid": openid})

    async def _callback_ip(self, request: web.Request) -> web.Response:
        return web.json_response({"ip_list": ["127.0.0.1"]})

    async def _qr_code(self, request: web.Request) -> web.Response:
        body = await _json(request)
        try:
            scene = str(body["action_info"]["scene"]["scene_str"])
            seconds = min(int(body.get("expire_seconds", 30)), LONGEST_QR_SECONDS)
        except (TypeError, KeyError, ValueError):
            return _error(47001)
        ticket = secrets.token_urlsafe(48)
        self.scenes[ticket] = scene
        url = f"http://weixin.qq.com/q/{ticket[:16]}"
        return web.json_response({"ticket": ticket, "expire_seconds": seconds, "url": url})

    async def _quota(self, request: web.Request) -> web.Response:
        quotas = self.wechat.quotas
        limit, used = quotas.limits.daily, quotas.used()
        quota = {"daily_limit": limit, "used": used, "remain": max(0, limit - used)}
        return web.json_response({"errcode": 0, "errmsg": "ok", "quota": quota})

    async def _clear_quota(self, request: web.Request) -> web.Response:
        wrong = self.wechat.quotas.clear(time.strftime("%Y%m", time.gmtime(self.now())))
        return _error(wrong) if wrong else web.json_response({"errcode": 0, "errmsg": "ok"})

    # -- SMS --------------------------------------------------------------------------------

    async def _sms(self, request: web.Request) -> web.StreamResponse:
        if not has_bearer(request, SecretStr(SMS_TOKEN)):
            return web.json_response({"error": "wrong token"}, status=401)
        if self.dice.hits(self.faults.http_500):
            return web.json_response({"error": "try again"}, status=500)
        if self.dice.hits(self.faults.http_429):
            return web.json_response({"error": "slower"}, status=429, headers={"Retry-After": "1"})
        body = await _json(request)
        wrong = self.gateway.check(body)
        if wrong:
            return web.json_response({"error": wrong}, status=400)
        gateway_id, text = self.gateway.accept(body)
        if text is not None:
            self._on_arrival(text)
        if self.dice.hits(self.faults.drop_after_accept):
            return _break(request)
        return web.json_response({"id": gateway_id})


def _error(code: int, message: str = "") -> web.Response:
    """Return an answer with an errcode. Its HTTP status is 200, as WeChat's is."""
    text = f"{message or ERRORS.get(code, 'error')} rid: {uuid4().hex[:8]}-{uuid4().hex[:8]}"
    return web.json_response({"errcode": code, "errmsg": text})


def _break(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _json(request: web.Request) -> Any:
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None

"""The stand-in for WeChat and the SMS gateway as one HTTP server, with a control plane.

As WeChat:  POST /cgi-bin/stable_token, GET /cgi-bin/token, POST /cgi-bin/message/template/send,
            GET /cgi-bin/template/get_all_private_template
As gateway: POST /sms
Control:    GET    /__sandbox/messages    what stands on the phones: {"wechat": […], "sms": […]}
            DELETE /__sandbox/messages    empty them
            GET    /__sandbox/stats       counts of requests, repeats, renewals, refusals
            PUT    /__sandbox/faults      see `faults.py`; what isn't named is switched off
            PUT    /__sandbox/callback    see `callbacks.Callback`
            PUT    /__sandbox/followers/{openid}   {"follows": bool, "refuses": bool}, and the
                                                   (un)subscribe event goes to the callback
            POST   /__sandbox/events      {"openid", "event", "fields": {…}} to the callback
            POST   /__sandbox/rotate-token
            POST   /__sandbox/clock       {"forward_s": n}
            PUT    /__sandbox/quota       {"daily": n}
            GET    /                      the phones, for people
"""

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from app.sandbox.callbacks import Callback, CallbackDriver
from app.sandbox.faults import Dice, Faults
from app.sandbox.sms import Gateway, Text
from app.sandbox.tokens import Tokens
from app.sandbox.wechat import ERRORS, Accounts, Message

APP_ID = "wxsandbox00000000"
APP_SECRET = "sandbox-app-secret"  # noqa: S105 (of the stand-in: it opens nothing)
TEMPLATE_ID = "sandbox-template-0123456789012345678901234"
SMS_TOKEN = "sandbox-sms-token"  # noqa: S105 (the same)

OnArrival = Callable[[Message | Text], None]


class Sandbox:
    """One stand-in. Lives on one event loop."""

    def __init__(self, seed: int = 1, on_arrival: OnArrival = lambda message: None) -> None:
        """`on_arrival` is called with each message that reaches a phone."""
        self._forward_s = 0.0
        self.faults = Faults()
        self.dice = Dice(seed)
        self.tokens = Tokens(self.now)
        self.wechat = Accounts(TEMPLATE_ID, self.dice, self.now)
        self.gateway = Gateway(self.now)
        self.http = httpx.AsyncClient(trust_env=False)
        self.driver = CallbackDriver(APP_ID, self.now, self.http)
        self.sends = 0
        self._on_arrival = on_arrival
        self._callbacks: set[asyncio.Task[int | None]] = set()

    def now(self) -> float:
        return time.time() + self._forward_s

    def application(self) -> web.Application:
        """Return the server's routes."""
        app = web.Application(middlewares=[self._go_wrong])
        app.router.add_route("*", "/cgi-bin/stable_token", self._stable_token)
        app.router.add_get("/cgi-bin/token", self._classic_token)
        app.router.add_route("*", "/cgi-bin/message/template/send", self._send)
        app.router.add_get("/cgi-bin/template/get_all_private_template", self._templates)
        app.router.add_post("/sms", self._sms)
        app.router.add_get("/", self._page)
        control = "/__sandbox"
        app.router.add_get(f"{control}/messages", self._messages)
        app.router.add_delete(f"{control}/messages", self._empty)
        app.router.add_get(f"{control}/stats", self._stats)
        app.router.add_put(f"{control}/faults", self._set_faults)
        app.router.add_put(f"{control}/callback", self._set_callback)
        app.router.add_put(f"{control}/followers/{{openid}}", self._set_follower)
        app.router.add_post(f"{control}/events", self._event)
        app.router.add_post(f"{control}/rotate-token", self._rotate)
        app.router.add_post(f"{control}/clock", self._clock)
        app.router.add_put(f"{control}/quota", self._quota)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, app: web.Application) -> None:
        for task in self._callbacks:
            task.cancel()
        await self.http.aclose()

    # -- WeChat -----------------------------------------------------------------------------

    @web.middleware
    async def _go_wrong(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/__sandbox") or request.path == "/":
            return await handler(request)
        faults = self.faults
        if faults.latency_s:
            await asyncio.sleep(faults.latency_s)
        if faults.is_away:
            return web.Response(status=503, text="<html>503</html>")
        return await handler(request)

    async def _stable_token(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return _error(43002)
        body = await _json(request)
        if not isinstance(body, dict):
            return _error(47001)
        wrong = _wrong_credentials(body.get("appid"), body.get("secret"))
        if wrong:
            return _error(wrong)
        token, left_s = self.tokens.stable(force_refresh=body.get("force_refresh") is True)
        return web.json_response({"access_token": token, "expires_in": left_s})

    async def _classic_token(self, request: web.Request) -> web.Response:
        wrong = _wrong_credentials(request.query.get("appid"), request.query.get("secret"))
        if wrong:
            return _error(wrong)
        token, left_s = self.tokens.classic()
        return web.json_response({"access_token": token, "expires_in": left_s})

    async def _send(self, request: web.Request) -> web.Response:
        """1. token, 2. faults before accepting, 3. checks, 4. accept, 5. faults after it."""
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
        if dice.hits(faults.busy):
            return _error(-1)
        if faults.answer is not None:
            return _error(faults.answer)
        body = await _json(request)
        code, named = self.wechat.check(body)
        if code:
            return _error(code, named)
        msgid, message = self.wechat.accept(body, faults)
        if message is None and faults.duplicate_reply == "error_40241":
            return _error(40241)
        if message is not None:
            self._on_arrival(message)
            await self._finish_job(message)
        if dice.hits(faults.drop_after_accept):
            return _break(request)
        text = f'{{"errcode":0,"errmsg":"ok","msgid":{msgid}}}'
        if dice.hits(faults.truncated):
            text = text[:20]
        return web.Response(text=text, content_type="application/json")

    async def _templates(self, request: web.Request) -> web.Response:
        wrong = self.tokens.error(request.query.get("access_token"))
        if wrong:
            return _error(wrong)
        fields = ("first", "keyword1", "keyword2", "keyword3", "keyword4", "remark")
        content = "\n".join(f"{{{{{name}.DATA}}}}" for name in fields)
        template = {"template_id": self.wechat.template_id, "title": "通知", "content": content}
        return web.json_response({"template_list": [template]})

    async def _finish_job(self, message: Message) -> None:
        faults, dice = self.faults, self.dice
        if not self.driver.callback.url or not dice.hits(faults.callback_share):
            return
        said = {"MsgID": message.msgid, "Status": faults.callback_status}
        for _ in range(2 if dice.hits(faults.callback_twice) else 1):
            sending = self.driver.send(message.openid, "TEMPLATESENDJOBFINISH", **said)
            if faults.callback_before_answer:
                await sending
                continue
            task = asyncio.create_task(sending)
            self._callbacks.add(task)
            task.add_done_callback(self._callbacks.discard)

    # -- SMS --------------------------------------------------------------------------------

    async def _sms(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {SMS_TOKEN}".encode()):
            return web.json_response({"error": "wrong token"}, status=401)
        if self.dice.hits(self.faults.http_500):
            return web.json_response({"error": "try again"}, status=500)
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

    # -- control ----------------------------------------------------------------------------

    async def _messages(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "wechat": [asdict(message) for message in self.wechat.messages],
                "sms": [asdict(text) for text in self.gateway.texts.values()],
            }
        )

    async def _empty(self, request: web.Request) -> web.Response:
        self.wechat.messages.clear()
        self.gateway.texts.clear()
        return web.json_response({})

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "sends": self.sends,
                "accepted": self.wechat.accepted,
                "repeats": self.wechat.repeats,
                "sms": len(self.gateway.texts),
                "sms_repeats": self.gateway.repeats,
                "token_requests": self.tokens.requests,
                "token_renewals": self.tokens.renewals,
                "callbacks_refused": self.driver.refused,
            }
        )

    async def _set_faults(self, request: web.Request) -> web.Response:
        self.faults = await _body(request, Faults)
        return web.json_response(msgspec.to_builtins(self.faults))

    async def _set_callback(self, request: web.Request) -> web.Response:
        self.driver.callback = await _body(request, Callback)
        return web.json_response({})

    async def _set_follower(self, request: web.Request) -> web.Response:
        wanted = await _body(request, dict[str, bool])
        openid = request.match_info["openid"]
        _set(self.wechat.refusing, openid, is_in=wanted.get("refuses", False))
        if "follows" in wanted:
            follows = wanted["follows"]
            _set(self.wechat.strangers, openid, is_in=not follows)
            await self.driver.send(openid, "subscribe" if follows else "unsubscribe", EventKey="")
        return web.json_response({})

    async def _event(self, request: web.Request) -> web.Response:
        body = await _body(request, dict[str, Any])
        fields = {str(name): str(value) for name, value in body.get("fields", {}).items()}
        status = await self.driver.send(body["openid"], body["event"], **fields)
        return web.json_response({"status": status})

    async def _rotate(self, request: web.Request) -> web.Response:
        self.tokens.rotate()
        return web.json_response({})

    async def _clock(self, request: web.Request) -> web.Response:
        self._forward_s += (await _body(request, dict[str, float])).get("forward_s", 0.0)
        return web.json_response({"forward_s": self._forward_s})

    async def _quota(self, request: web.Request) -> web.Response:
        self.wechat.daily_quota = (await _body(request, dict[str, int])).get("daily", 100_000)
        return web.json_response({})

    async def _page(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(Path(__file__).parent / "page.html")


def _wrong_credentials(app_id: object, secret: object) -> int:
    if app_id != APP_ID:
        return 40013
    return 0 if secret == APP_SECRET else 40125


def _error(code: int, message: str = "") -> web.Response:
    """WeChat answers errors with HTTP 200 too."""
    text = f"{message or ERRORS.get(code, 'error')} rid: {uuid4().hex[:8]}-{uuid4().hex[:8]}"
    return web.json_response({"errcode": code, "errmsg": text})


def _break(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _set(openids: set[str], openid: str, *, is_in: bool) -> None:
    (openids.add if is_in else openids.discard)(openid)


async def _json(request: web.Request) -> Any:
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def _body(request: web.Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None

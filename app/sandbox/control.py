"""The stand-in's control plane: shows what is on the phones, and sets what goes wrong.

GET    /__sandbox/messages    what is on the phones: {"wechat": […], "sms": […]}
DELETE /__sandbox/messages    empty them
GET    /__sandbox/stats       counts of requests, repeats, renewals, refusals
GET    /__sandbox/state       faults, limits, callback, addresses, followers in force
PUT    /__sandbox/faults      see `faults.py`; faults that aren't named are switched off
PUT    /__sandbox/limits      see `quotas.QuotaLimits`; limits that aren't named are reset
PUT    /__sandbox/quota       {"daily": n}, the other limits stay
PUT    /__sandbox/callback    see `callbacks.Callback`
PUT    /__sandbox/followers/{openid}   {"follows": bool, "refuses": bool}, and the (un)subscribe
                                       event goes to the callback
PUT    /__sandbox/templates/{id}       {"fields": […], "text": "…{{x.DATA}}…", "is_banned": bool}
PUT    /__sandbox/blocked-words        […]
PUT    /__sandbox/addresses   {"mode": "open" | "unlisted" | "ask"}
POST   /__sandbox/addresses   {"approves": bool}: the administrator's word
POST   /__sandbox/events      {"openid", "event", "fields": {…}} to the callback
POST   /__sandbox/scan        {"openid", "scene" or "ticket"}: somebody scans a QR code
POST   /__sandbox/attacks     {"attack", "openid"}, see `attacks.py`; {"statuses": […]}
POST   /__sandbox/rotate-token
POST   /__sandbox/clock       {"forward_s": n}
GET    /                      the phones, for people
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from app.sandbox.addresses import Mode
from app.sandbox.attacks import ATTACKS, SEALED_ONLY, Attack, send_attack
from app.sandbox.callbacks import Callback
from app.sandbox.faults import Faults
from app.sandbox.quotas import QuotaLimits
from app.sandbox.server import CONTROL, Sandbox
from app.sandbox.wechat import FIELDS

_PAGE = Path(__file__).parent / "page.html"


class _Follower(Struct, forbid_unknown_fields=True):
    follows: bool | None = None
    refuses: bool | None = None
    template_id: str | None = None


class _Template(Struct, forbid_unknown_fields=True):
    fields: tuple[str, ...] = FIELDS
    text: str = ""
    is_banned: bool = False


class _Event(Struct, forbid_unknown_fields=True):
    openid: str
    event: str
    fields: dict[str, str] = {}


class _Scan(Struct, forbid_unknown_fields=True):
    openid: str
    scene: str = ""
    ticket: str = ""


class _Attacked(Struct, forbid_unknown_fields=True):
    attack: Attack
    openid: str = "o-attacked"


def with_control_plane(sandbox: Sandbox) -> web.Application:
    """Return the stand-in's server with its control plane and its page."""
    app = sandbox.application()
    control = _Control(sandbox)
    for method, path, answering in (
        ("GET", "/messages", control.messages),
        ("DELETE", "/messages", control.empty),
        ("GET", "/stats", control.stats),
        ("GET", "/state", control.state),
        ("PUT", "/faults", control.set_faults),
        ("PUT", "/limits", control.set_limits),
        ("PUT", "/quota", control.set_quota),
        ("PUT", "/callback", control.set_callback),
        ("PUT", "/followers/{openid}", control.set_follower),
        ("PUT", "/templates/{template_id}", control.set_template),
        ("PUT", "/blocked-words", control.set_blocked_words),
        ("PUT", "/addresses", control.set_addresses),
        ("POST", "/addresses", control.answer_for_address),
        ("POST", "/events", control.send_event),
        ("POST", "/scan", control.scan),
        ("POST", "/attacks", control.attack),
        ("POST", "/rotate-token", control.rotate),
        ("POST", "/clock", control.forward_clock),
    ):
        app.router.add_route(method, f"{CONTROL}{path}", answering)
    app.router.add_get("/", control.page)
    return app


class _Control:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def messages(self, request: web.Request) -> web.Response:
        sandbox = self._sandbox
        return web.json_response(
            {
                "wechat": [asdict(message) for message in sandbox.wechat.messages],
                "sms": [asdict(text) for text in sandbox.gateway.texts.values()],
            }
        )

    async def empty(self, request: web.Request) -> web.Response:
        self._sandbox.wechat.messages.clear()
        self._sandbox.gateway.texts.clear()
        return web.json_response({})

    async def stats(self, request: web.Request) -> web.Response:
        sandbox = self._sandbox
        return web.json_response(
            {
                "sends": sandbox.sends,
                "accepted": sandbox.wechat.accepted,
                "repeats": sandbox.wechat.repeats,
                "used_today": sandbox.wechat.quotas.used(),
                "sms": len(sandbox.gateway.texts),
                "sms_repeats": sandbox.gateway.repeats,
                "token_requests": sandbox.tokens.requests,
                "token_renewals": sandbox.tokens.renewals,
                "callbacks_refused": sandbox.driver.refused,
            }
        )

    async def state(self, request: web.Request) -> web.Response:
        sandbox = self._sandbox
        # Harmless: these keys are valid for this stand-in's own callback only.
        return _json(
            {
                "faults": sandbox.faults,
                "limits": sandbox.wechat.quotas.limits,
                "callback": sandbox.driver.callback,
                "addresses": sandbox.addresses.mode,
                "strangers": sorted(sandbox.wechat.strangers),
                "refusing": sorted({openid for openid, _ in sandbox.wechat.refusing}),
                "templates": sandbox.wechat.templates,
                "banned": sorted(sandbox.wechat.banned),
                "blocked_words": sorted(sandbox.wechat.blocked_words),
                "attacks": [
                    attack
                    for attack in ATTACKS
                    if sandbox.driver.callback.mode != "plain" or attack not in SEALED_ONLY
                ],
                "forward_s": sandbox.forward_s,
            }
        )

    async def set_faults(self, request: web.Request) -> web.Response:
        self._sandbox.faults = await _body(request, Faults)
        return _json(self._sandbox.faults)

    async def set_limits(self, request: web.Request) -> web.Response:
        self._sandbox.wechat.quotas.limits = await _body(request, QuotaLimits)
        return _json(self._sandbox.wechat.quotas.limits)

    async def set_quota(self, request: web.Request) -> web.Response:
        self._sandbox.wechat.quotas.limits.daily = (await _body(request, dict[str, int])).get(
            "daily", QuotaLimits().daily
        )
        return web.json_response({})

    async def set_callback(self, request: web.Request) -> web.Response:
        self._sandbox.driver.callback = await _body(request, Callback)
        return web.json_response({})

    async def set_follower(self, request: web.Request) -> web.Response:
        wanted = await _body(request, _Follower)
        openid, wechat = request.match_info["openid"], self._sandbox.wechat
        if wanted.refuses is not None:
            pair = (openid, wanted.template_id or wechat.template_id)
            _set(wechat.refusing, pair, is_in=wanted.refuses)
        if wanted.follows is not None:
            _set(wechat.strangers, openid, is_in=not wanted.follows)
            name = "subscribe" if wanted.follows else "unsubscribe"
            await self._sandbox.driver.send(openid, name, EventKey="")
        return web.json_response({})

    async def set_template(self, request: web.Request) -> web.Response:
        wanted = await _body(request, _Template)
        template_id, wechat = request.match_info["template_id"], self._sandbox.wechat
        wechat.templates[template_id], wechat.texts[template_id] = wanted.fields, wanted.text
        _set(wechat.banned, template_id, is_in=wanted.is_banned)
        return web.json_response({})

    async def set_blocked_words(self, request: web.Request) -> web.Response:
        self._sandbox.wechat.blocked_words = await _body(request, set[str])
        return web.json_response({})

    async def set_addresses(self, request: web.Request) -> web.Response:
        self._sandbox.addresses.set((await _body(request, dict[str, Mode])).get("mode", "open"))
        return web.json_response({})

    async def answer_for_address(self, request: web.Request) -> web.Response:
        approves = (await _body(request, dict[str, bool])).get("approves", True)
        self._sandbox.addresses.answer(approves=approves)
        return web.json_response({})

    async def send_event(self, request: web.Request) -> web.Response:
        wanted = await _body(request, _Event)
        status = await self._sandbox.driver.send(wanted.openid, wanted.event, **wanted.fields)
        return web.json_response({"status": status})

    async def scan(self, request: web.Request) -> web.Response:
        """Let a person scan a QR code: a follower sends SCAN, others begin to follow."""
        wanted = await _body(request, _Scan)
        sandbox, openid = self._sandbox, wanted.openid
        scene = wanted.scene or sandbox.scenes.get(wanted.ticket)
        if not scene:
            raise web.HTTPBadRequest(text="there is no such QR code")
        is_new = openid in sandbox.wechat.strangers
        sandbox.wechat.strangers.discard(openid)
        event, key = ("subscribe", f"qrscene_{scene}") if is_new else ("SCAN", scene)
        status = await sandbox.driver.send(openid, event, EventKey=key, Ticket=wanted.ticket)
        return web.json_response({"event": event, "status": status})

    async def attack(self, request: web.Request) -> web.Response:
        wanted = await _body(request, _Attacked)
        if not self._sandbox.driver.callback.url:
            raise web.HTTPBadRequest(text="no callback is set")
        statuses = await send_attack(self._sandbox.driver, wanted.attack, wanted.openid)
        return web.json_response({"statuses": statuses})

    async def rotate(self, request: web.Request) -> web.Response:
        self._sandbox.tokens.rotate()
        return web.json_response({})

    async def forward_clock(self, request: web.Request) -> web.Response:
        sandbox = self._sandbox
        sandbox.forward_s += (await _body(request, dict[str, float])).get("forward_s", 0.0)
        return web.json_response({"forward_s": sandbox.forward_s})

    async def page(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(_PAGE)


def _set(members: set[Any], member: Any, *, is_in: bool) -> None:
    (members.add if is_in else members.discard)(member)


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _body(request: web.Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None

"""Who may see or change customers' data: see `DIALWATCH_WEB_TOKEN` in the contract."""

import base64
import binascii
import hmac
import ipaddress

from aiohttp import web

from app.settings import Settings


def refusal(request: web.Request, settings: Settings) -> web.Response | None:
    """Return the answer for whom it is not for; None: go on."""
    token = settings.web_token
    if token is not None:
        given = request.headers.get("Authorization", "")
        if hmac.compare_digest(_token_in(given), token.get_secret_value().encode()):
            return None
        return web.json_response(
            {"code": 401, "msg": "DIALWATCH_WEB_TOKEN is needed: as a bearer token, or as the "
             "password that a browser asks for"},
            status=401,
            headers={"WWW-Authenticate": 'Basic realm="dialwatch"'},
        )  # fmt: skip
    # A page of another site that a browser was led to carries that site's name as Host.
    if is_loopback(settings.web_host) and is_loopback(_host_of(request)):
        return None
    return web.json_response(
        {"code": 403, "msg": "set DIALWATCH_WEB_TOKEN to see customers' data from elsewhere"},
        status=403,
    )


def _token_in(authorization: str) -> bytes:
    """Return the token of `Bearer` or, as browsers can, the password of `Basic`."""
    scheme, _, rest = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.encode("utf-8", "surrogateescape")
        case "basic":
            try:
                return base64.b64decode(rest, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return b""
    return b""


def is_loopback(host: str) -> bool:
    """Whether a host's name or address can only be this machine."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of(request: web.Request) -> str:
    host = request.headers.get("Host", "")
    return (
        host[: host.index("]") + 1]
        if host.startswith("[") and "]" in host
        else (host.partition(":")[0])
    )

"""The access rule: who may see or change customers' data (`DIALWATCH_WEB_TOKEN` in the contract).

All web servers of dialwatch use it, before they read anything of a request's body.
"""

import base64
import binascii
import hmac
import ipaddress

from aiohttp import HttpVersion11, web
from pydantic import SecretStr

# Headers that proxies add; X-Forwarded-For, -Host, -Proto and others are known by their prefix.
_FORWARDED = frozenset({"forwarded", "x-real-ip", "via"})
_FORWARDED_PREFIX = "x-forwarded-"


def refusal(request: web.BaseRequest, token: SecretStr | None, bound: str) -> web.Response | None:
    """Return the answer to a client that has no access; None: the client has access.

    `token`: `DIALWATCH_WEB_TOKEN`. `bound`: the host that the server listens on. Without a token
    only clients on this machine have access, and not those of a proxy on this machine.
    """
    if token is not None:
        if hmac.compare_digest(_token_in(request), token.get_secret_value().encode()):
            return None
        return web.json_response(
            {"code": 401, "msg": "DIALWATCH_WEB_TOKEN is needed: as a bearer token, or as the "
             "password that a browser asks for"},
            status=401,
            headers={"WWW-Authenticate": 'Basic realm="dialwatch"'},
        )  # fmt: skip
    if is_loopback(bound) and _names_loopback(request) and not _is_forwarded(request):
        return None
    return web.json_response(
        {"code": 403, "msg": "set DIALWATCH_WEB_TOKEN to see customers' data from elsewhere or "
         "through a proxy"},
        status=403,
    )  # fmt: skip


def has_bearer(request: web.BaseRequest, token: SecretStr) -> bool:
    """Does a request have the token as `Bearer`, as programs send it? A password in a browser
    doesn't count: the page of another site could make the browser send it."""
    scheme, given = _authorization(request)
    return scheme == "bearer" and hmac.compare_digest(given, token.get_secret_value().encode())


def _token_in(request: web.BaseRequest) -> bytes:
    """Return the token of `Bearer`, or the password of `Basic`, which browsers send."""
    scheme, given = _authorization(request)
    match scheme:
        case "bearer":
            return given
        case "basic":
            try:
                return base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return b""
    return b""


def _authorization(request: web.BaseRequest) -> tuple[str, bytes]:
    """Return the scheme of the Authorization header in lower case, and the rest."""
    scheme, _, given = request.headers.get("Authorization", "").strip().partition(" ")
    return scheme.lower(), given.strip().encode("utf-8", "surrogateescape")


def _names_loopback(request: web.BaseRequest) -> bool:
    """Does the request's Host name this machine itself?

    A request that the page of another site causes may have that site's name as Host.
    """
    hosts = request.headers.getall("Host", [])
    # A request with a whole URL, which has a host of its own, is meant for a proxy.
    is_direct = request.raw_path.startswith("/")
    return is_direct and len(hosts) == 1 and is_loopback(_without_port(hosts[0]))


def _is_forwarded(request: web.BaseRequest) -> bool:
    """Is there a sign that the request came through a proxy?

    nginx's `proxy_pass` alone adds no header and sends this server's own address as Host. But it
    speaks HTTP/1.0, which no browser does.
    """
    names = {name.lower() for name in request.headers}
    return (
        request.version < HttpVersion11
        or not names.isdisjoint(_FORWARDED)
        or any(name.startswith(_FORWARDED_PREFIX) for name in names)
    )


def is_loopback(host: str) -> bool:
    """Does a host's name or address always mean this machine?"""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    if host.startswith("[") and "]" in host:
        return host[: host.index("]") + 1]
    return host.partition(":")[0]

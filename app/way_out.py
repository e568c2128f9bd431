"""Connections to the providers: through the environment's proxy, or directly.

httpx reads the same variables, but a proxy that it can't use ends the program at its start, even
where nothing is ever sent. Here such a proxy is logged once, and only requests through it fail.

The connections are aiohttp's: httpcore checks every idle one for each request, which with 64 costs
twenty times as much as the request. Only for SOCKS, which aiohttp lacks, httpcore is used.
"""

import ipaddress
import logging
import ssl
from collections.abc import Iterable, Mapping

import aiohttp
import httpx

log = logging.getLogger(__name__)


class WayOut(httpx.AsyncBaseTransport):
    """Sends a request through its proxy, or directly: to this machine and to NO_PROXY's hosts."""

    def __init__(self, proxies: Mapping[str, str], limits: httpx.Limits) -> None:
        """`proxies`: as `urllib` returns them: by scheme, with `all` and `no`."""
        context = _certificates()

        def build(proxy: httpx.Proxy) -> httpx.AsyncBaseTransport:
            socks = httpx.AsyncHTTPTransport(verify=context, limits=limits, proxy=proxy)
            is_http = proxy.url.scheme in {"http", "https"}
            return _Connections(context, limits, proxy) if is_http else socks

        self._no_proxy = tuple(name.strip() for name in proxies.get("no", "").split(","))
        self._direct: httpx.AsyncBaseTransport = _Connections(context, limits)
        self._proxied: dict[str, httpx.AsyncBaseTransport] = {}
        made: dict[str, httpx.AsyncBaseTransport] = {}
        for scheme in ("http", "https"):
            variable = scheme if proxies.get(scheme) else "all"
            address = proxies.get(variable)
            if not address:
                continue
            if address not in made:
                try:
                    address_ = address if "://" in address else f"http://{address}"
                    made[address] = build(httpx.Proxy(address_))
                # ImportError: the package for this kind of proxy isn't installed.
                except (ValueError, TypeError, httpx.InvalidURL, ImportError) as error:
                    reason = f"{variable.upper()}_PROXY can't be used ({type(error).__name__})"
                    log.warning("%s: name an http, https or socks5 proxy as URL", reason)
                    made[address] = _NoWay(reason)
            self._proxied[scheme] = made[address]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        way = self._proxied.get(request.url.scheme)
        if way is None or goes_directly(request.url.host, self._no_proxy):
            way = self._direct
        return await way.handle_async_request(request)

    async def aclose(self) -> None:
        for way in {self._direct, *self._proxied.values()}:
            await way.aclose()


class _Connections(httpx.AsyncBaseTransport):
    """An httpx transport that uses aiohttp's connections, and keeps them for reuse.

    Its errors keep the distinction that counts: nothing was written (`ConnectError`,
    `ConnectTimeout`, `ProxyError`), or the provider may have read the request (all others).
    """

    def __init__(
        self, context: ssl.SSLContext, limits: httpx.Limits, proxy: httpx.Proxy | None = None
    ) -> None:
        self._context = context
        self._limits = limits
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        """Return the session. The first request makes it, because it needs the event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._limits.max_connections or 0, ssl=self._context
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            )
        return self._session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits, proxy = request.extensions.get("timeout", {}), self._proxy
        try:
            async with self._open().request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    connect=limits.get("pool"),
                    sock_connect=limits.get("connect"),
                    sock_read=limits.get("read"),
                ),
                proxy=None if proxy is None else str(proxy.url),
                proxy_auth=_auth_of(proxy),
            ) as answer:
                content = await answer.read()
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise httpx.UnsupportedProtocol(type(error).__name__, request=request) from error
        except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
            raise httpx.ProxyError(type(error).__name__, request=request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(type(error).__name__, request=request) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout(type(error).__name__, request=request) from error
        except TimeoutError as error:
            raise httpx.ReadTimeout(type(error).__name__, request=request) from error
        except aiohttp.ServerDisconnectedError as error:
            raise httpx.RemoteProtocolError(type(error).__name__, request=request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(type(error).__name__, request=request) from error
        return httpx.Response(answer.status, headers=list(answer.raw_headers), content=content)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


def _auth_of(proxy: httpx.Proxy | None) -> aiohttp.BasicAuth | None:
    return None if proxy is None or proxy.auth is None else aiohttp.BasicAuth(*proxy.auth)


class _NoWay(httpx.AsyncBaseTransport):
    """Stands for a proxy that can't be used: every request through it fails."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ProxyError(self._reason, request=request)


def goes_directly(host: str, no_proxy: Iterable[str]) -> bool:
    """Is a host this machine, or one that NO_PROXY names?

    A name in NO_PROXY also covers all names below it, with or without a dot or a star before it. An
    address may have brackets, and may be a network. Ports are ignored.
    """
    host = host.strip("[]").lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for name in no_proxy:
        wanted = name.lower()
        if wanted == "*":
            return True
        if wanted.startswith("["):
            wanted = wanted[1:].partition("]")[0]
        elif wanted.count(":") == 1:
            wanted = wanted.partition(":")[0]
        if address is not None:
            try:
                if address in ipaddress.ip_network(wanted, strict=False):
                    return True
            except ValueError:
                continue
        wanted = wanted.removeprefix("*").strip(".")
        if wanted and (host == wanted or host.endswith(f".{wanted}")):
            return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _certificates() -> ssl.SSLContext:
    """Return the certificates to trust: those of SSL_CERT_FILE or SSL_CERT_DIR, else the usual."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        log.warning(
            "SSL_CERT_FILE or SSL_CERT_DIR can't be loaded (%s): the usual certificates count",
            error.strerror or type(error).__name__,
        )
        return httpx.create_ssl_context(trust_env=False)

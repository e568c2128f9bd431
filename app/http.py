"""HTTP to the providers: one client for the worker, and answers as values.

Errors on the way are told apart by one question only: may the provider have accepted the request?
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from urllib.request import getproxies_environment

import httpx
import msgspec
from msgspec import Struct

from agents.metrics import PROVIDER_SECONDS
from app.way_out import WayOut
from streams import tracing

MOST_CONNECTIONS = 128
CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
# The limit for a whole request: an answer that comes byte by byte never meets the read timeout.
WHOLE_SECONDS = 20.0

# Errors before anything was written: the provider can't have accepted the request.
_BEFORE_WRITING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class Answer(Struct, frozen=True):
    """The provider's answer."""

    status: int
    body: Mapping[str, object] | None = None
    """None: the body isn't a JSON object."""
    retry_after_s: float | None = None


class NoAnswer(Struct, frozen=True):
    """The provider didn't answer, or not in time."""

    error: str
    may_be_taken: bool


def open_http() -> httpx.AsyncClient:
    """Return the worker's client; close it with `aclose()`.

    httpx logs whole URLs at INFO, and WeChat's carry the access token: its loggers are muted.
    """
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    limits = httpx.Limits(
        max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS
    )
    return httpx.AsyncClient(
        transport=WayOut(getproxies_environment(), limits),
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        trust_env=False,
    )


async def post(
    http: httpx.AsyncClient,
    channel: str,
    url: str,
    body: bytes,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    secrets: tuple[str, ...] = (),
) -> Answer | NoAnswer:
    """Post a JSON body; return the answer. Network errors are returned, not raised.

    No error names the URL, and `secrets` that the answer repeats are replaced by stars.
    """
    traces = tracing.on()
    try:
        request = httpx.Request(
            "POST",
            _parsed(url, tuple((params or {}).items())),
            headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})},
            content=body,
            extensions={"timeout": http.timeout.as_dict()},
        )
        with (
            PROVIDER_SECONDS.labels(channel).time(),
            nullcontext() if traces is None else traces.request(channel) as traced,
        ):
            if traced is not None:
                request.headers.update(traced.headers)
            async with asyncio.timeout(WHOLE_SECONDS):
                response = await http.send(request)
            if traced is not None:
                traced.answered(response.status_code)
    except _BEFORE_WRITING as error:
        return NoAnswer(type(error).__name__, may_be_taken=False)
    except (httpx.HTTPError, TimeoutError) as error:
        return NoAnswer(type(error).__name__, may_be_taken=True)
    except httpx.InvalidURL:
        return NoAnswer("InvalidURL", may_be_taken=False)
    content = response.content
    for secret in secrets:
        content = content.replace(secret.encode(), b"***")
    return Answer(
        response.status_code,
        _json_object(content),
        retry_after_s(response.headers.get("Retry-After")),
    )


@lru_cache(maxsize=16)
def _parsed(url: str, params: tuple[tuple[str, str], ...]) -> httpx.URL:
    """Return the parsed URL. Cached, because it is the same for thousands of requests, and parsing
    costs as much as everything else that httpx does for one."""
    return httpx.URL(url, params=params) if params else httpx.URL(url)


def _json_object(content: bytes) -> Mapping[str, object] | None:
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def retry_after_s(retry_after: str | None) -> float | None:
    """Return a Retry-After in seconds; None: it is missing, a date, implausibly long, or 0, which
    says as little: whoever then asked at once would ask without an end."""
    if retry_after is None or not retry_after.isdecimal() or len(retry_after) > 4:
        return None
    return float(retry_after) or None

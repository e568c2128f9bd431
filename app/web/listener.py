"""One web application on one port, with limits against overload: for the worker and the console.

A process has few file descriptors, and needs them for Kafka, Redis and the providers. So there is a
limit of connections, beyond which a new one replaces the longest silent one. Silence, headers and
bodies have time limits, and compressed bodies are never inflated.
"""

import asyncio
import os
import resource
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler

from app.errors import CommandError
from app.settings import variable

IDLE_SECONDS = 20.0
"""A connection without a request, or with incomplete headers, is closed after this time."""
BODY_SECONDS = 10.0
LINGER_SECONDS = 2.0
"""How long a refused body is still read and dropped, so that the client gets the answer."""
STOP_SECONDS = 2.0
MOST_CONNECTIONS = 256
# So many connections may be accepted at once beyond the limit.
_BACKLOG = 32


class Listener:
    """A web application's port, from `start` to `stop`."""

    def __init__(
        self,
        app: web.Application,
        *,
        host: str,
        port: int,
        setting: str,
        most_connections: int | None = None,
        idle_s: float = IDLE_SECONDS,
    ) -> None:
        """`port` 0: any free one. `setting`: `web` or `console`, for the variables' names in
        errors. `most_connections` None: as many as the process may have."""
        self._host, self._port, self._setting = host.strip("[]"), port, setting
        self._most = most_connections or most_for_descriptors()
        # The connections with a request that isn't answered yet.
        self._busy: set[object] = set()
        app.middlewares.insert(0, self._watching())
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=STOP_SECONDS,
            keepalive_timeout=idle_s,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; return the address, `host:port`.

        Raises CommandError where the port is taken or the host isn't one of this machine.
        """
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept, self._host, self._port, backlog=_BACKLOG
            )
        except OSError as error:
            await self._runner.cleanup()
            # asyncio's own text has the address and more in it.
            known = error.errno is not None and error.errno > 0
            reason = os.strerror(error.errno) if known else error.strerror  # type: ignore[arg-type]
            names = [variable(f"{self._setting}_{part}") for part in ("host", "port")]
            raise CommandError(
                f"can't listen on {self._host}:{self._port} ({reason}): end what listens there, or "
                f"set {names[0]} and {names[1]}"
            ) from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        """Finish the requests under way, then close the port."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None  # noqa: S101 (it is set up before anybody is accepted)
        connections = server.connections
        if len(connections) >= self._most and not self._make_room(connections):
            return _Refused()
        return cast(asyncio.Protocol, server())

    def _make_room(self, connections: list[RequestHandler]) -> bool:
        """Close the longest silent connection without a request. Return whether there was one."""
        for connection in connections:
            if connection not in self._busy and connection.transport is not None:
                connection.force_close()
                return True
        return False

    def _watching(self) -> Middleware:
        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._busy.add(request.protocol)
            try:
                return await handler(request)
            finally:
                self._busy.discard(request.protocol)

        return watch


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def most_for_descriptors() -> int:
    """Return how many connections the web server of this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft < 0 else max(8, min(MOST_CONNECTIONS, soft // 4))


async def read_body(
    request: web.BaseRequest, most_bytes: int, within_s: float = BODY_SECONDS
) -> bytes | None:
    """Return the body as it came, never inflated; None: it is longer than `most_bytes`.

    A body whose Content-Length is too long isn't read at all. Raises HTTPRequestTimeout where it
    doesn't come in time.
    """
    if (request.content_length or 0) > most_bytes:
        return None
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for part in request.content.iter_any():
                body += part
                if len(body) > most_bytes:
                    return None
    except TimeoutError:
        raise web.HTTPRequestTimeout(headers={"Connection": "close"}) from None
    return bytes(body)

"""What fills up a web server: silent connections, slow bodies, compressed ones."""

import asyncio
import gzip
import http.client
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from app.errors import CommandError
from app.local.worker import WorkerProcess
from app.sandbox.run import running_sandbox
from app.web.listener import IDLE_SECONDS, Listener, most_for_descriptors, read_body
from tests.installation import PATIENCE_SECONDS, Installation
from tests.samples import account, call

MOST_BYTES = 1_000


async def echo(request: web.Request) -> web.Response:
    body = await read_body(request, MOST_BYTES, within_s=0.3)
    return web.Response(status=413) if body is None else web.Response(body=body)


async def here(request: web.Request) -> web.Response:
    return web.Response(text="here")


@dataclass
class Slow:
    """Answers when it is told to."""

    under_way: int = 0
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.Response:
        self.under_way += 1
        await self.answers.wait()
        return web.Response(text="done")


@asynccontextmanager
async def listening(slow: Slow | None = None, **given: float) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/", here)
    app.router.add_post("/echo", echo)
    app.router.add_get("/wait", (slow or Slow()).serve)
    listener = Listener(app, host="127.0.0.1", port=0, setting="web", **given)  # type: ignore[arg-type]
    address = await listener.start()
    yield int(address.rpartition(":")[2])
    await listener.stop()


async def ask(port: int, *lines: str, body: bytes = b"") -> bytes:
    """Send a request and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "Host: x", "Connection: close", "", ""]).encode() + body)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    finally:
        writer.close()


async def is_closed(reader: asyncio.StreamReader, within_s: float = IDLE_SECONDS / 2) -> bool:
    """Is it closed, and long before every silent one is?"""
    try:
        return await asyncio.wait_for(reader.read(), within_s) == b""
    except (TimeoutError, ConnectionError) as error:
        return isinstance(error, ConnectionError)


async def test_silent_connections_give_way_to_who_asks_something() -> None:
    async with listening(most_connections=4) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        for _ in range(6):
            assert (await ask(port, "GET / HTTP/1.1")).endswith(b"here")
        closed = [await is_closed(reader, 0.5) for reader, _ in silent]
        assert closed.count(False) <= 4
        assert closed == sorted(closed, reverse=True)  # those silent for longest went
        for _, writer in silent:
            writer.close()


async def test_what_is_being_answered_is_never_closed_for_a_new_one() -> None:
    slow = Slow()
    async with listening(slow, most_connections=2) as port:
        asked = [asyncio.create_task(ask(port, "GET /wait HTTP/1.1")) for _ in range(2)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while slow.under_way < 2:  # noqa: ASYNC110 (not worth a condition)
                await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await is_closed(reader)
        writer.close()
        slow.answers.set()
        assert all(answer.endswith(b"done") for answer in await asyncio.gather(*asked))


@pytest.mark.parametrize("began", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_silence_and_half_a_head_end(began: bytes) -> None:
    async with listening(idle_s=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(began)
        assert await is_closed(reader)
        writer.close()


async def test_a_body_that_doesn_t_come_and_one_that_is_too_long_are_refused() -> None:
    async with listening() as port:
        head = ["POST /echo HTTP/1.1"]
        slow = await ask(port, *head, "Content-Length: 10", body=b"five")
        assert slow.startswith(b"HTTP/1.1 408")
        told = await ask(port, *head, f"Content-Length: {MOST_BYTES + 1}")
        assert told.startswith(b"HTTP/1.1 413")
        chunk = f"{MOST_BYTES + 1:x}\r\n".encode() + bytes(MOST_BYTES + 1) + b"\r\n"
        untold = await ask(port, *head, "Transfer-Encoding: chunked", body=chunk)
        assert untold.startswith(b"HTTP/1.1 413")


async def test_nothing_is_inflated() -> None:
    body = gzip.compress(bytes(500_000))
    assert len(body) < MOST_BYTES
    async with listening() as port:
        answer = await ask(
            port,
            "POST /echo HTTP/1.1",
            f"Content-Length: {len(body)}",
            "Content-Encoding: gzip",
            body=body,
        )
    assert answer.endswith(body)


async def test_a_taken_port_is_one_line_that_names_the_variables() -> None:
    async with listening() as port:
        app = web.Application()
        second = Listener(app, host="127.0.0.1", port=port, setting="console")
        with pytest.raises(CommandError, match="DIALWATCH_CONSOLE_HOST and DIALWATCH_CONSOLE_PORT"):
            await second.start()


def test_a_web_server_leaves_most_descriptors_to_the_rest() -> None:
    assert 8 <= most_for_descriptors() <= 256


class FewDescriptors(WorkerProcess):
    def command(self) -> list[str]:
        return ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *super().command()]


@pytest.mark.broker
async def test_300_silent_connections_stop_no_message(installation: Installation) -> None:
    with running_sandbox() as (sandbox, environment), ExitStack() as opened:
        worker = FewDescriptors(
            installation.directory / "few",
            installation.variables | environment | {"DIALWATCH_WEB_TOKEN": "ops-token"},
        )
        installation.workers.append(worker)
        worker.start()
        for _ in range(300):
            opened.enter_context(
                socket.create_connection(("127.0.0.1", worker.port), PATIENCE_SECONDS)
            )
        await installation.publish(
            [account("acme", intent_classes=["A"])]
            + [call("acme", index, result="A") for index in range(40)]
        )
        # Inbox and WeChat for each.
        await installation.wait_for("deliveries", lambda seen: len(seen) == 80)
        assert len(sandbox.wechat.messages) == 40
        assert worker.get("/health")[0] == 200
        assert "out of system resource" not in worker.log.read_text()


@pytest.mark.broker
def test_who_has_no_token_or_signature_has_no_body_read(installation: Installation) -> None:
    worker = installation.worker(
        DIALWATCH_WEB_TOKEN="ops-token", DIALWATCH_WECHAT_CALLBACK_TOKEN="callbacktoken"
    )
    for path, status in (("/wechat/send", 401), ("/receive/wechat/callback", 403)):
        connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=PATIENCE_SECONDS)
        # The body is announced and never comes: who reads it waits, and answers 408.
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()

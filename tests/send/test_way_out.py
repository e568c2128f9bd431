"""Which way a request goes: the environment's proxies, and what is on this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.http import Answer, NoAnswer, open_http, post
from app.way_out import goes_directly

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers whatever comes; its port, and what came first on each connection."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(1_000))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], came


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


async def test_what_goes_out_goes_through_the_proxy_and_what_is_here_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening(OK) as (proxy, asked), listening(OK) as (here, came):
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy}")
        monkeypatch.setenv("NO_PROXY", "[::1],other.example")
        async with open_http() as http:
            assert not isinstance(await post(http, "sms", "http://sms.example/m", b"{}"), NoAnswer)
            for host in ("127.0.0.1", "localhost", "LOCALHOST"):
                said = await post(http, "sms", f"http://{host}:{here}/m", b"{}")
                assert not isinstance(said, NoAnswer)
    assert [line.split(b"\r\n")[0] for line in asked] == [b"POST http://sms.example/m HTTP/1.1"]
    assert [line.split(b"\r\n")[0] for line in came] == [b"POST /m HTTP/1.1"] * 3


async def test_a_socks_proxy_is_spoken_to_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readexactly(3)  # version 5, one way to log in: none
        writer.write(b"\x05\x00")
        head = await reader.readexactly(5)  # connect to a name of this length
        asked = (await reader.readexactly(head[4] + 2))[:-2]
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        async with open_http() as http:
            said = await post(http, "sms", "http://sms.example/m", b"{}")
    assert said == Answer(200, {})
    assert asked == b"sms.example"


async def test_a_connection_is_used_again_and_what_is_compressed_is_read() -> None:
    ports, asked = set(), []

    async def serve(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        kind = request.headers["Content-Type"]
        asked.append((request.query["access_token"], kind, await request.read()))
        answer = web.json_response({"id": 7}, headers={"Retry-After": "3"})
        answer.enable_compression(web.ContentCoding.gzip)
        return answer

    app = web.Application()
    app.router.add_post("/{path:.*}", serve)
    async with TestServer(app) as server, open_http() as http:
        for _ in range(3):
            url = str(server.make_url("/m"))
            said = await post(http, "sms", url, b'{"a":1}', params={"access_token": "a+b/=é"})
            assert said == Answer(200, {"id": 7}, 3.0)
    assert len(ports) == 1
    assert asked == [("a+b/=é", "application/json; charset=utf-8", b'{"a":1}')] * 3


async def test_what_was_written_before_the_connection_broke_may_have_been_taken() -> None:
    async with listening(b"") as (here, came), open_http() as http:
        said = await post(http, "sms", f"http://127.0.0.1:{here}/m", b"{}")
    assert came
    assert isinstance(said, NoAnswer)
    assert said.may_be_taken


@pytest.mark.parametrize(
    "proxy", ["nonsense://x:1", "socks4://10.0.0.1:1080", "http://x:port", ":::"]
)
async def test_a_proxy_that_can_t_be_used_ends_nothing_and_stops_only_what_needs_it(
    proxy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "[::1]")
    async with listening(OK) as (here, _), open_http() as http:
        said = await post(http, "sms", "http://sms.example/m", b"{}")
        assert said == NoAnswer("ProxyError", may_be_taken=False)
        assert not isinstance(await post(http, "sms", f"http://127.0.0.1:{here}/", b""), NoAnswer)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "app.way_out"]
    assert "ALL_PROXY" in line


async def test_no_password_of_a_proxy_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", "nonsense://user:do-not-show-me@x:1")
    await open_http().aclose()
    assert "HTTPS_PROXY" in caplog.text
    assert "do-not-show-me" not in caplog.text


async def test_certificates_that_are_not_there_end_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    await open_http().aclose()
    assert "SSL_CERT_FILE" in caplog.text


@pytest.mark.parametrize(
    ("host", "no_proxy", "expected"),
    [
        ("127.0.0.9", "", True),
        ("::1", "", True),
        ("localhost", "", True),
        ("api.weixin.qq.com", "", False),
        ("api.weixin.qq.com", "*", True),
        ("api.weixin.qq.com", "qq.com", True),
        ("api.weixin.qq.com", ".qq.com", True),
        ("api.weixin.qq.com", "*.QQ.com", True),
        ("api.weixin.qq.com", "api.weixin.qq.com:443", True),
        ("myqq.com", "qq.com", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("fd00::1", "[fd00::1]:80", True),
        ("fd00::1", "fd00::/8", True),
        ("fd00::2", "fd00::1", False),
        ("10.1.2.3", "[::1],nonsense/99,10.1.2.3", True),
    ],
)
def test_whom_no_proxy_names(host: str, no_proxy: str, expected: bool) -> None:
    assert goes_directly(host, no_proxy.split(",")) is expected


async def test_the_client_takes_nothing_else_from_the_environment() -> None:
    async with open_http() as http:
        assert isinstance(http, httpx.AsyncClient)
        assert not http.trust_env

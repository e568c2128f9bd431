"""The server's routes in memory, with a recorder in Kafka's place and a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from app.settings import load_settings
from app.web.wechat_callback import add_callback_routes
from app.web.wechat_send import add_sending_routes
from tests.describe.answers import WORKER, check_described


@dataclass
class Recorder:
    """Keeps what is published; fails, or doesn't answer, as long as it is told to."""

    records: list[tuple[str, bytes | None, bytes]] = field(default_factory=list)
    error: Exception | None = None
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answers.set()

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> None:
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        self.records.append((topic, key, value))

    def of(self, topic: str) -> list[bytes]:
        return [value for name, _, value in self.records if name == topic]


async def _check_described(request: web.Request, answer: web.StreamResponse) -> None:
    where = request.method, request.path
    check_described(WORKER, *where, answer.status, answer.content_type)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def settings_given() -> dict[str, str]:
    """Tests change it before they use `client`."""
    return {
        "wechat_app_id": "wxtest",
        "wechat_callback_token": "callbacktoken",
        "web_token": "ops-token",
    }


@pytest.fixture
async def client(
    recorder: Recorder, redis: Redis, settings_given: dict[str, str]
) -> AsyncIterator[TestClient]:  # type: ignore[type-arg]
    settings = load_settings(**settings_given)
    app = web.Application()
    app.on_response_prepare.append(_check_described)
    add_callback_routes(
        app, settings=settings, topics=settings.topics, publish=recorder.publish, redis=redis
    )
    add_sending_routes(app, settings=settings, topics=settings.topics, publish=recorder.publish)
    async with TestClient(TestServer(app)) as made:
        yield made

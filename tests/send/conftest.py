"""A real Valkey for what the sender keeps in Redis."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from app.local.valkey import Valkey
from app.redis_store import open_redis


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server that tests may freeze and kill, as long as it serves again afterwards."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    """A client of an empty server, as the worker opens it."""
    client = open_redis(valkey.redis_url)
    await client.flushdb()
    yield client
    await client.aclose()

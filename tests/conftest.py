"""A real Kafka and a real Valkey for all tests that need them, and a fresh installation for each.

The Kafka used is the first of these: `DIALWATCH_TEST_BOOTSTRAP_SERVERS`; a container, where a
Docker engine answers; the local stack. Where none works the tests fail: nothing is skipped.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis

from app.local.kafka import Kafka
from app.local.valkey import Valkey
from app.redis_store import open_redis
from streams.kafka import fetching
from tests.installation import Installation
from tests.strict_kafka import StrictKafka

# Hypothesis has no deadline: how long an example takes depends on the machine.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def aiokafka_as_it_comes() -> Iterator[None]:
    """A test that builds a worker in this process leaves the others' consumers as they were."""
    yield
    fetching.uninstall()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a cluster that all tests share; each has its own topics."""
    given = os.environ.get("DIALWATCH_TEST_BOOTSTRAP_SERVERS")
    if given:
        yield given
    elif _has_docker():
        from testcontainers.kafka import KafkaContainer  # noqa: PLC0415 (slow to import)

        with KafkaContainer("confluentinc/cp-kafka:8.0.0").with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        server = Kafka(tmp_path_factory.mktemp("kafka"))
        server.start()
        yield server.bootstrap_servers
        server.kill()


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictKafka]:
    """A broker with users and rights, for tests that may change what these are."""
    server = StrictKafka(tmp_path_factory.mktemp("strict"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey that all tests share; keys carry the installation's group."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.redis_url
    server.kill()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of that Valkey, emptied, as the worker opens it."""
    client = open_redis(redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
def installation(kafka: str, redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """Fresh topics, group and directories; its workers end with the test."""
    made = Installation(kafka, redis_url, tmp_path)
    asyncio.run(made.create_topics())
    yield made
    made.close()


def _has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0

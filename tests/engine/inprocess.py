"""A worker's engine and Faust app in this process, with constants of a test's choosing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC
from pathlib import Path
from typing import Any

from aiokafka.consumer import fetcher

from agents.rules import Rules
from app.faust_app import create_app
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.types import Chunk, Source
from streams.kafka.fetching import _FetchResult
from tests.installation import Installation

RULES = Rules(zone=UTC)
SESSION_SECONDS = 20.0
"""Long enough for a busy machine: no worker here dies without leaving its group."""
_THEIRS = fetcher.PartitionRecords, fetcher.FetchResult


def ignore(polled: Chunk) -> None:
    """Fold nothing."""


class InProcess:
    """Reads accounts and calls of an installation, and whatever else is added before `start`."""

    def __init__(
        self,
        installation: Installation,
        name: str,
        directory: Path,
        fold_calls: Callable[[Chunk], None] = ignore,
        **config: Any,
    ) -> None:
        topics = self._topics = installation.topics
        self.crashes: list[Exception] = []
        self.engine = Engine(
            EngineConfig(
                group=installation.name,
                worker_id=name,
                changelog=topics.changelog,
                output_topics=topics.outputs(),
                queues=topics.queues(),
                session_timeout_s=SESSION_SECONDS,
                client_options={"bootstrap_servers": installation.brokers},
                **config,
            ),
            self.crashes.append,
        )
        self.engine.add_source(Source(topics.accounts, ignore, order=0, is_read_first=True))
        self.engine.add_source(Source(topics.calls, fold_calls, is_timed=True))
        self._directory = directory / name
        self._brokers = [installation.brokers]

    async def start(self) -> None:
        self.app = create_app(
            self.engine,
            self._topics,
            RULES,
            client_id=self.engine.config.worker_id,
            brokers=self._brokers,
            credentials=None,
            datadir=str(self._directory),
            session_timeout_s=SESSION_SECONDS,
        )
        await self.engine.connect()
        await self.app.start()

    async def stop(self) -> None:
        await self.engine.stop()
        await self.app.stop()
        # Other tests read with aiokafka as it comes.
        fetcher.PartitionRecords, fetcher.FetchResult = _THEIRS
        _FetchResult.most_at_once = 10_000


async def eventually(
    is_so: Callable[[], bool | Awaitable[bool]],
    what: str,
    within_s: float = 60.0,
    every_s: float = 0.05,
) -> None:
    """Wait until `is_so` returns true; fail after `within_s` seconds with `what` in the text."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        answer = is_so()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {within_s:.0f} s: {what}"
        await asyncio.sleep(every_s)

"""Looking things up in Kafka when a page needs them: single records, and the group's lag.

One connection serves all pages, and is made again when it is lost. No group; writes nothing.
"""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import Any

from aiokafka.errors import KafkaError

from app.errors import CommandError, KafkaAwayError
from app.operations.installation import Installation, open_installation
from app.operations.lag import group_lag
from app.settings import Settings
from streams.engine.types import TP

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
LAG_KEPT_SECONDS = 5.0


class KafkaLookups:
    """Looks things up in Kafka. Every method returns or raises within seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: AsyncExitStack | None = None
        self._installation: Installation | None = None
        self._opening = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._lag: dict[str, Any] | None = None
        self._asked_at: float | None = None
        self._lag_instant: int | None = None

    async def close(self) -> None:
        """Disconnect."""
        opened, self._opened, self._installation = self._opened, None, None
        if opened is not None:
            await opened.aclose()

    async def installation(self) -> Installation:
        """Return the connected installation. Raises CommandError."""
        async with self._opening:
            if self._installation is None:
                opened = AsyncExitStack()
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        self._installation = await opened.enter_async_context(
                            open_installation(self._settings)
                        )
                except TimeoutError:
                    await opened.aclose()
                    raise self._away() from None
                self._opened = opened
            return self._installation

    async def record(self, topic: str, partition: int, offset: int) -> Any:
        """Return a committed record; None: there is none (any more). Raises KafkaAwayError."""
        installation = await self.installation()
        if not partition < installation.counts.get(topic, 0):
            return None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                scan = installation.logs.scan(TP(topic, partition), offset, offset + 1)
                try:
                    async for records in scan:
                        return records[0]
                finally:
                    await scan.aclose()  # type: ignore[attr-defined]
        except (KafkaError, OSError, TimeoutError):
            await self.close()
            raise self._away() from None
        return None

    async def lag(
        self, kept_s: float = LAG_KEPT_SECONDS
    ) -> tuple[dict[str, Any] | None, int | None]:
        """Return what `dialwatch lag` prints, at most `kept_s` seconds old, and its instant; None:
        it isn't known."""
        async with self._asking:
            # Also while Kafka is away, ask no more often: each question may take seconds then.
            if self._asked_at is None or time.monotonic() - self._asked_at > kept_s:
                self._lag = self._lag_instant = None
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        installation = await self.installation()
                        self._lag = await group_lag(installation)
                    self._lag_instant = time.time_ns() // 1000
                    if self._settings.topics.changelog not in installation.counts:
                        await self.close()  # the installation's topics don't exist yet
                except (KafkaError, CommandError, OSError, TimeoutError) as error:
                    log.debug("no lag: %r", error)
                    await self.close()
                self._asked_at = time.monotonic()
            return self._lag, self._lag_instant

    def _away(self) -> KafkaAwayError:
        return KafkaAwayError(
            f"Kafka doesn't answer at {self._settings.kafka_bootstrap_servers}: what is indexed "
            "can be looked at, the records themselves can't"
        )

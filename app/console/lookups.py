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
LOOK_AGAIN_SECONDS = 30.0
"""How often it is looked whether the topics got more partitions."""
LAG_KEPT_SECONDS = 5.0


class KafkaLookups:
    """Looks things up in Kafka. Every method returns or raises within seconds."""

    def __init__(self, settings: Settings, *, look_again_s: float = LOOK_AGAIN_SECONDS) -> None:
        self._settings = settings
        self._look_again_s = look_again_s
        self._looked_at = 0.0
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
            now = time.monotonic()
            if self._installation is not None and now - self._looked_at < self._look_again_s:
                return self._installation
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    self._installation = await self._open_or_look_again()
            except (KafkaError, OSError, TimeoutError):
                await self.close()
                raise self._away() from None
            self._looked_at = now
            return self._installation

    async def _open_or_look_again(self) -> Installation:
        if self._installation is not None:
            return await self._installation.as_it_stands()
        opened = AsyncExitStack()
        opening = open_installation(self._settings)
        installation = await opened.enter_async_context(opening)
        self._opened = opened
        return installation

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

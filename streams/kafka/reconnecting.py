"""Reconnecting to brokers that are away or unreachable: with growing pauses and few lines of log.

aiokafka 0.14 connects again at each request, and its own loops repeat requests without a pause: it
tries, and logs, thousands of times a second. Follows `AIOKafkaClient._get_conn`.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient

log = logging.getLogger(__name__)

_LEAST_PAUSE_SECONDS = 0.05
_MOST_PAUSE_SECONDS = 1.0
_PAUSE_SHARE = 0.1
"""The pause, as a part of the time for which the broker has been away."""
_SAY_AGAIN_SECONDS = 30.0
_SAY_SELDOM_SECONDS = 300.0


@dataclass
class _Away:
    since: float
    next_word: float
    word_every_s: float = _SAY_AGAIN_SECONDS


_away: dict[str, _Away] = {}
"""By address, for all clients of the process: a worker has several, and should log one line."""

_connect = AIOKafkaClient._get_conn


def install() -> None:
    """Make every AIOKafkaClient of this process pause before it connects to a broker again."""
    AIOKafkaClient._get_conn = _get_conn


async def _get_conn(client: AIOKafkaClient, node_id: Any, **options: Any) -> Any:
    broker = client.cluster.broker_metadata(node_id)
    place = f"{broker.host}:{broker.port}" if broker is not None else ""
    connection = await _connect(client, node_id, **options)
    now = time.monotonic()
    if connection is not None:
        away = _away.pop(place, None) if _away else None
        if away is not None:
            log.info("Kafka's broker at %s is there again, after %.0f s", place, now - away.since)
        return connection
    if not place:
        await asyncio.sleep(_LEAST_PAUSE_SECONDS)
        return None
    away = _away.setdefault(place, _Away(now, now))
    if now >= away.next_word:
        away.next_word = now + away.word_every_s
        away.word_every_s = min(away.word_every_s * 2, _SAY_SELDOM_SECONDS)
        log.warning(
            "Kafka's broker %s doesn't answer at %s, for %.0f s now; trying on. Start it, or set "
            "its advertised.listeners to an address that leads to it from here",
            node_id,
            place,
            now - away.since,
        )
    pause_s = (now - away.since) * _PAUSE_SHARE
    await asyncio.sleep(min(max(pause_s, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS))
    return None

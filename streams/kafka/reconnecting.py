"""Brokers that are away, or advertise an address where nobody is: pauses that grow, and few words.

aiokafka 0.14 connects again as soon as anybody asks, which its own loops do without a pause, and
logs each try: thousands a second. Follows `AIOKafkaClient._get_conn`.
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
"""Of the time for which a broker has been away."""
_SAY_AGAIN_SECONDS = 30.0
_SAY_SELDOM_SECONDS = 300.0


@dataclass
class _Away:
    since: float
    next_word: float
    word_every_s: float = _SAY_AGAIN_SECONDS


_away: dict[str, _Away] = {}
"""By address, for all clients of the process: a worker has several, and one line is enough."""

_connect = AIOKafkaClient._get_conn


def install() -> None:
    """Make every AIOKafkaClient of this process pause before it tries a broker again."""
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

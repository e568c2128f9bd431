"""Write what a release leaves in Kafka, by that release's own code, for its successors to read.

    git archive 61b90f7 | tar --extract --directory /tmp/0.1.0        # the release
    cd /tmp/0.1.0 && PYTHONPATH=. PYTHON THIS_FILE FIXTURE.json.gz     # PYTHON: a checkout's .venv

Runs on the release's tree alone: nothing of this one is imported.
"""

import gzip
import json
import sys
from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from app.replay import Caused, Refold  # type: ignore[import-not-found]  # where it was in 0.1.0

from agents.rules import Rules
from streams.engine.types import TP
from streams.topics import Topics
from tests.test_histories import PARTITIONS, ZONES, History

SEEDS = range(9)
EVENTS = 320
HALF = 190
LAST = (0, 30, 90)
"""Of the first half: what these cause in the group's own topics stays there unread."""


class _Kept(Refold):  # type: ignore[misc]
    """Keeps the commands."""

    def __init__(self, rules: Rules, topics: Topics) -> None:
        self.ids: list[str] = []
        super().__init__(
            rules, topics, lambda raw: self.ids.append(json.loads(raw)["notification_id"])
        )


def written(seed: int) -> dict[str, Any]:
    """Return one history, what stands in Kafka in its middle, and what was told of it."""
    zone = ZoneInfo(ZONES[seed % len(ZONES)])
    rules = {
        "run_length": 3,
        "run_window_hours": 2,
        "expiry_notice_days": 3,
        "batch_retention_days": 1,
    }
    refold = _Kept(
        Rules(zone=zone, reminder_time=time(2, 30), **rules), Topics("", "g", PARTITIONS)
    )
    events = [
        (topic, key, value.decode() if isinstance(value, bytes) else json.dumps(value), partition)
        if value is not None
        else (topic, key, None, partition)
        for topic, key, value, partition in History(seed, zone).events(EVENTS)
    ]
    for offset, event in enumerate(events[:HALF]):
        tp, record = as_record(offset, event)
        if offset < HALF - LAST[seed % 3]:
            refold.fold(tp, [record])
        else:
            refold.fold_one(tp, [record])
    told = len(refold.ids)
    state = []
    for one in refold.states:
        one.seal()
        one.apply()
        for prefix, values in one._base.items():
            state += [[one.partition, (prefix + k).hex(), v.hex()] for k, v in values.items()]
    unread = [
        [tp.topic, tp.partition, (record.key or b"").hex(), (record.value or b"").hex()]
        for tp, record in refold.waiting
    ]
    while refold.waiting:
        tp, record = refold.waiting.popleft()
        refold.fold_one(tp, [record])
    for offset, event in enumerate(events[HALF:], HALF):
        tp, record = as_record(offset, event)
        refold.fold(tp, [record])
    return {
        "zone": str(zone),
        "rules": rules,
        "events": events[HALF:],
        "offset": HALF,
        "state": state,
        "unread": unread,
        "told": refold.ids[told:],
    }


def as_record(offset: int, event: Any) -> tuple[TP, Any]:
    """Return an event as the folds take it."""
    topic, key, value, partition = event
    raw = None if value is None else value.encode()
    return TP(topic, partition), Caused(offset, offset, None if key is None else key.encode(), raw)


if __name__ == "__main__":
    content = json.dumps([written(seed) for seed in SEEDS]).encode()
    Path(sys.argv[1]).write_bytes(gzip.compress(content, mtime=0))

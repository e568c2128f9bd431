"""Which partitions `topics expand` added, as a replay must know it. Its answer doesn't depend on
who folds: it is found once, before any fold.

An added partition's state has seen the ticks of before too: its accounts lay elsewhere then. That
its ticks begin later proves nothing: a publisher of one's own may tick one partition alone. But
`topics expand` says of each record of `accounts` that it moved it.
"""

from collections.abc import Iterator
from typing import Any

from app.analysis.partition_logs import Logs, PartitionLog
from app.operations.moved import is_of_a_move
from streams.engine.order import FOREVER
from streams.engine.types import TP, Source
from streams.topics import Topics

# Workers tick all partitions at once: those of an added one begin later by more than this.
_LATE_MS = 3_000


def added_partitions(reading: Logs, topics: Topics) -> dict[int, int]:
    """Return the partitions that were added later, and when their own ticks begin (ms; FOREVER:
    there is none yet)."""
    added: dict[int, int] = {}
    logs = _logs(topics.ticks, topics)
    reading.begin(logs)
    reading.fill([log for log in logs if log.is_hungry])
    first = logs[0].at
    for log in reversed(logs):  # what is added has the highest numbers
        begins = FOREVER if log.at is None else log.at
        # If retention has deleted a log's beginning, the partition may be an old one.
        if first is None or begins <= first + _LATE_MS or log.offset:
            break
        added[log.tp.partition] = begins
    return added if added and any(map(is_of_a_move, _accounts(reading, topics))) else {}


def _accounts(reading: Logs, topics: Topics) -> Iterator[Any]:
    logs = _logs(topics.accounts, topics)
    reading.begin(logs)
    while True:
        reading.fill([log for log in logs if log.is_hungry])
        ready = [log for log in logs if log.at is not None]
        if not ready:
            return
        for log in ready:
            yield from log.take(1 << 30, FOREVER)


def _logs(topic: str, topics: Topics) -> list[PartitionLog]:
    return [
        PartitionLog(TP(topic, number), Source(topic, lambda _: None))
        for number in range(topics.partitions)
    ]

"""Which partitions `topics expand` added, as a replay must know it. Its answer doesn't depend on
who folds: it is found once, before any fold.

An added partition's state has seen the ticks of before too: its accounts lay elsewhere then. That
its ticks begin later proves nothing: a publisher of one's own may tick one partition alone. But
`topics expand` says of each record of `accounts` that it moved it; and when retention and newer
records have taken that away, calls of before still lie where their keys no longer belong.
"""

from collections.abc import Iterator
from typing import Any

from app.analysis.partition_logs import Logs, PartitionLog
from app.operations.moved import is_of_a_move
from streams.engine.order import FOREVER, UNKNOWN
from streams.engine.types import TP, Source
from streams.topics import Topics, partition_of

# Workers tick all partitions at once: those of an added one begin later by more than this.
_LATE_MS = 3_000
# So many records of a partition show whether keys lie elsewhere: of any, half and more do then.
_FEW = 1_000


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
    if not added:
        return {}
    is_sure = any(map(is_of_a_move, _accounts(reading, topics))) or _has_strays(
        reading, topics, added
    )
    return added if is_sure else {}


def _has_strays(reading: Logs, topics: Topics, added: dict[int, int]) -> bool:
    """Does a record from before the added partitions' ticks lie where its key doesn't belong?"""
    logs = [
        log
        for topic in (topics.calls, topics.recharges)
        for log in _logs(topic, topics)
        if log.tp.partition not in added
    ]
    reading.begin(logs)
    reading.fill([log for log in logs if log.is_hungry])
    return any(
        record.key is not None
        and record.timestamp < added.get(partition_of(record.key, topics.partitions), UNKNOWN)
        for log in logs
        if log.at is not None
        for record in log.take(_FEW, FOREVER)
    )


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

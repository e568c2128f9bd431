"""Work that a worker does every few seconds beside its cycles: check that the topics still are the
ones that its state was built from, and delete records that are worked off from the group's queues.
"""

import logging
from collections.abc import Iterable, Mapping

from aiokafka.errors import KafkaError

from streams.engine.positions import Gap, Missing, is_another
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader

log = logging.getLogger(__name__)

_MISSING_FOR = 3
"""A topic counts as missing after so many checks in a row: a broker that just started may not know
it yet."""


class Housekeeping:
    """The housekeeping of one assignment."""

    def __init__(
        self,
        reader: LogReader,
        topic_ids: Mapping[str, bytes],
        changelog: str,
        queues: Iterable[str],
    ) -> None:
        """`topic_ids`: the id of each topic that the worker needs. `queues`: see `EngineConfig`."""
        self._reader = reader
        self._ids = topic_ids
        self._changelog = changelog
        self._queues = frozenset(queues)
        self._deleted: dict[TP, int] = {}
        self._denied: set[str] = set()
        self._missed = 0

    async def look_for_gaps(self, committed: Mapping[TP, int]) -> list[Gap]:
        """Return a gap for each topic that was deleted, or deleted and created again, while this
        worker used it. Raises KafkaError."""
        found = await self._reader.topic_ids(self._ids)
        is_any_missing = bool(self._ids.keys() - found.keys())
        self._missed = self._missed + 1 if is_any_missing else 0
        gone = {
            topic for topic, known in self._ids.items() if is_another(known, found.get(topic, b""))
        }
        if self._missed >= _MISSING_FOR:
            gone |= self._ids.keys() - found.keys()
        if self._changelog in gone:
            return [Gap(Missing.STATE_BEHIND, tp, it, 0, 0) for tp, it in committed.items()]
        return [Gap(Missing.MADE_ANEW, TP(topic, 0), 0, 0, 0) for topic in sorted(gone)]

    async def delete_done(self, committed: Mapping[TP, int]) -> None:
        """Delete the queues' records before the committed offsets. Raises KafkaError. A queue
        from which this user may not delete is told once, and the others go on."""
        done = {
            tp: offset
            for tp, offset in committed.items()
            if tp.topic in self._queues - self._denied and offset > self._deleted.get(tp, 0)
        }
        if not done:
            return
        denied = await self._reader.delete_before(done)
        if denied:
            self._denied |= denied
            log.warning(
                "may not delete what is done with from %s, which so grow for ever: allow this user "
                "DELETE on them and on the group's other queues",
                ", ".join(sorted(denied)),
            )
        self._deleted.update(done)


def is_transient(error: Exception) -> bool:
    """Does the error come from Kafka or the network, so that a later try may succeed?"""
    return isinstance(error, KafkaError | TimeoutError | OSError)

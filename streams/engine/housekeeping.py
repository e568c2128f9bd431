"""What a worker does now and then beside its cycles: look whether its topics still are those that
its state was built from, and delete from the group's queues what is done with."""

import logging
from collections.abc import Collection, Mapping

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from streams.engine.positions import Gap, Missing, is_another
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader

log = logging.getLogger(__name__)

_MISSING_FOR = 3
"""Looks in a row that don't find a topic: a broker that just started may not know it yet."""


class Housekeeping:
    """Of one assignment."""

    def __init__(
        self,
        reader: LogReader,
        topic_ids: Mapping[str, bytes],
        changelog: str,
        queues: Collection[str],
    ) -> None:
        """`topic_ids`: of all topics that the worker needs."""
        self._reader = reader
        self._ids = topic_ids
        self._changelog = changelog
        self._queues = queues
        self._deleted: dict[TP, int] = {}
        self._is_allowed = True
        self._missed = 0

    async def look_for_gaps(self, committed: Mapping[TP, int]) -> list[Gap]:
        """Return which topics were made anew or deleted under the worker. Raises KafkaError."""
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
        """Delete the queues' records before these offsets. Raises KafkaError, but for lacking the
        right: that is said, once."""
        done = {
            tp: offset
            for tp, offset in committed.items()
            if tp.topic in self._queues and offset > self._deleted.get(tp, 0)
        }
        if not done or not self._is_allowed:
            return
        try:
            await self._reader.delete_before(done)
        except (ClusterAuthorizationFailedError, TopicAuthorizationFailedError):
            self._is_allowed = False
            log.warning(
                "may not delete what is done with from %s and the group's other queues, which so "
                "grow for ever: allow this user DELETE on them",
                next(iter(done)).topic,
            )
        self._deleted.update(done)


def is_transient(error: Exception) -> bool:
    """Is it Kafka's, and worth another look later?"""
    return isinstance(error, KafkaError | TimeoutError | OSError)

"""The ends of logs, waited for where they lie before what was read of these logs."""

import asyncio
from collections.abc import Mapping

from aiokafka.errors import ReplicaNotAvailableError

from streams.engine.types import TP
from streams.kafka.log_reader import LogReader

_AGAIN_SECONDS = 0.2
_ATTEMPT_SECONDS = 15.0


class LogEnds:
    """Waits for the ends of logs.

    What was written last, say a marker, may not be visible yet. And a leader that has just started
    shows its log only up to its last checkpoint, until enough other replicas have fetched from it.
    """

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: how long a log may stay behind before its end counts as lost."""
        self._patience_s = patience_s
        self._since: dict[TP, float] = {}
        """Since when each log that is behind has been seen so, in this attempt or one before."""
        self._looked = 0.0

    async def reached(self, reader: LogReader, needed: Mapping[TP, int]) -> dict[TP, int]:
        """Return the logs' ends, once they have reached the offsets `needed`, or as they are where
        some are lost. Raises ReplicaNotAvailableError where another attempt may find more."""
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            ends = await reader.ends(needed)
            if now() - self._looked > self._patience_s:
                self._since.clear()  # of another time
            self._looked = now()
            behind = [tp for tp, offset in needed.items() if ends[tp] < offset]
            for tp in needed.keys() - set(behind):
                self._since.pop(tp, None)
            if not behind:
                return ends
            waited_s = now() - max(self._since.setdefault(tp, now()) for tp in behind)
            if waited_s > self._patience_s and not await reader.lacks_replicas(behind):
                return ends
            if now() - began > _ATTEMPT_SECONDS:
                tp = behind[0]
                raise ReplicaNotAvailableError(
                    f"{tp.topic}-{tp.partition} ends at {ends[tp]}, before {needed[tp]}, up to "
                    "which it was read: are all of its replicas there?"
                )
            await asyncio.sleep(_AGAIN_SECONDS)

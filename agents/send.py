"""The sender: works off the commands of one channel over HTTP, each customer's in order.

It is an outbox of the engine, because HTTP can't be part of a transaction: what it finishes is
committed with a later cycle. One customer's commands go one after the other; customers don't
wait for each other. `agents/settle.py` says what happens to one command.
"""

import asyncio
import logging
import random as random_module
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo

from agents.admission import Admission
from agents.channel import Ledger, SendingChannel
from agents.clock import Clock, wall_clock
from agents.dead_letters import attempts_of, dead_letter
from agents.dispatch import COORDINATES
from agents.holds import HoldView
from agents.outcomes import Refused
from agents.patience import Patience
from agents.settle import Job, Lookup, RevokedError, Settler
from streams.decoding import InvalidRecordError, decode_notification
from streams.engine.outbox import Finish, OutboxRecord
from streams.engine.types import Output
from streams.metrics import DELIVERIES, PENDING
from streams.records import Delivery, Notification, encode

_log = logging.getLogger(__name__)

MOST_AT_ONCE = 64
MOST_PENDING = 5000
GRACE_SECONDS = 1.5


@dataclass
class _Lane:
    """One customer's commands of one partition, in order."""

    waiting: deque[tuple[OutboxRecord, Notification | InvalidRecordError]] = field(
        default_factory=deque
    )
    task: asyncio.Task[None] | None = None
    job: Job | None = None
    """What `task` is working on."""


class SendAgent:
    """The outbox of one channel (see `streams.engine.outbox.Outbox`), on one event loop."""

    max_pending = MOST_PENDING

    def __init__(
        self,
        channel: SendingChannel,
        *,
        topic: str,
        deliveries: str,
        dead_letters: str,
        ledger: Ledger,
        lookup: Lookup,
        zone: tzinfo,
        most_at_once: int = MOST_AT_ONCE,
        grace_s: float = GRACE_SECONDS,
        now: Clock = wall_clock,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """`topic` is read; `deliveries` and `dead_letters` are written.

        `lookup` is asked for the account at sending time. `now` returns instants; `random`
        (0 to 1) spreads retries. Durations go by the event loop's clock.
        """
        self.topic = topic
        self._channel = channel
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._zone = zone
        self._grace_s = grace_s
        self._patience = Patience(f"sending by {channel.name}", random)
        self._settler = Settler(
            channel,
            ledger=ledger,
            lookup=lookup,
            admission=Admission(most_at_once, channel.holds),
            patience=self._patience,
            zone=zone,
            now=now,
            random=random,
        )
        self._lanes: dict[tuple[int, str], _Lane] = {}
        self._pending: dict[int, int] = {}
        self._finish: Finish | None = None

    def bind(self, finish: Finish) -> None:
        """Take what is to be called once for every record that is done."""
        self._finish = finish

    def on_assigned(self, partition: int) -> None:
        """A partition's records will come."""
        self._pending[partition] = 0

    def take(self, partition: int, records: Sequence[OutboxRecord]) -> None:
        """Begin work on records, in their order. Returns at once."""
        for record in records:
            command: Notification | InvalidRecordError
            try:
                command = decode_notification(record.key, record.value)
                customer = command.account_id or f"openid {command.openid}"
            except InvalidRecordError as error:
                # Only another version's dispatch can have let it through.
                command, customer = error, repr(record.key)
            lane = self._lanes.get((partition, customer))
            if lane is None:
                lane = self._lanes[partition, customer] = _Lane()
                lane.task = asyncio.create_task(self._work_off(partition, customer, lane))
            lane.waiting.append((record, command))
        self._count(partition, len(records))

    def pending(self, partition: int) -> int:
        """How many records of a partition are begun and not finished."""
        return self._pending.get(partition, 0)

    async def on_revoked(self, partitions: Collection[int]) -> None:
        """Stop working on partitions; what the provider may have any moment gets a little time.

        Whatever is cut off stays begun in the ledger, and whoever is given it goes on from there.
        """
        revoked = [key for key in self._lanes if key[0] in partitions]
        tasks = set()
        for lane in map(self._lanes.__getitem__, revoked):
            assert lane.task is not None  # noqa: S101 - each lane is born with one
            tasks.add(lane.task)
            if lane.job is not None and lane.job.is_sending:
                lane.job.is_revoked = True
            else:
                lane.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for key in revoked:
            # A task that was cancelled before its first step couldn't.
            self._lanes.pop(key, None)
        for partition in partitions:
            self._count(partition, -self.pending(partition))
            del self._pending[partition]

    @property
    def store_is_away(self) -> bool:
        """Whether nothing is begun because Redis doesn't answer."""
        return self._patience.is_away

    def holds(self) -> list[HoldView]:
        """Return what of the channel is on hold, for `/ready`."""
        return self._channel.holds.views(self._zone)

    async def _work_off(self, partition: int, customer: str, lane: _Lane) -> None:
        """Finish a customer's commands one by one, until there are no more."""
        is_revoked = False
        try:
            while lane.waiting and not is_revoked:
                record, command = lane.waiting[0]
                if isinstance(command, InvalidRecordError):
                    outputs = [self._bury(partition, record, str(command))]
                else:
                    coordinates = f"{self.topic}-{partition}-{record.offset}"
                    is_again = attempts_of(record.headers) > 0
                    lane.job = Job(command, record.key, coordinates, is_again)
                    outputs = self._outputs(partition, record, await self._settle(lane.job))
                    is_revoked = lane.job.is_revoked
                    lane.job = None
                lane.waiting.popleft()
                self._count(partition, -1)
                if self._finish is not None:
                    self._finish(partition, record.offset, outputs)
        except RevokedError:
            return
        finally:
            self._lanes.pop((partition, customer), None)

    async def _settle(self, job: Job) -> list[Delivery] | None:
        try:
            return await self._settler.settle(job)
        except RevokedError:
            raise
        except Exception as error:
            # The one broad net: a bug costs one message, not the stream. Only its kind is told,
            # because the text of a client's error may hold a secret.
            kind = type(error).__name__
            _log.error("%s: %s at %s", self._channel.name, kind, job.coordinates)
            return [self._settler.describe(job, Refused(f"internal error: {kind}"))]

    def _outputs(
        self, partition: int, record: OutboxRecord, deliveries: list[Delivery] | None
    ) -> list[Output]:
        """Return the records that say what became of a command; a repeat leaves none."""
        if deliveries is None:
            DELIVERIES.labels(self._channel.name, "repeated", "").inc()
            return []
        outputs = []
        for delivery in deliveries:
            DELIVERIES.labels(delivery.channel, delivery.status, _reason(delivery)).inc()
            outputs.append(Output(self._deliveries, None, record.key, encode(delivery)))
            if delivery.status == "failed":
                reason = f"{_reason(delivery)}: {delivery.error}"
                outputs.append(self._bury(partition, record, reason))
        return outputs

    def _bury(self, partition: int, record: OutboxRecord, reason: str) -> Output:
        # Dispatch wrote down where the command stood before it came here.
        origin = dict(record.headers)
        return dead_letter(
            self._dead_letters,
            topic=origin.get("dialwatch.topic", self.topic.encode()).decode(),
            partition=int(origin.get("dialwatch.partition", partition)),
            offset=int(origin.get("dialwatch.offset", record.offset)),
            key=record.key,
            value=record.value,
            reason=reason,
            headers=_own_headers(record.headers),
        )

    def _count(self, partition: int, change: int) -> None:
        self._pending[partition] = self.pending(partition) + change
        PENDING.labels(self._channel.name).inc(change)


def _reason(delivery: Delivery) -> str:
    """Return why it isn't sent, from a closed set: metrics have it as a label."""
    if delivery.status == "skipped":
        return delivery.error or ""
    if delivery.status == "failed":
        return str(delivery.error_code or "given up")
    return ""


def _own_headers(headers: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """Return a command's headers without what dispatch wrote behind them."""
    last = tuple(name for name, _ in headers[-len(COORDINATES) :])
    return headers[: -len(COORDINATES)] if last == COORDINATES else headers

"""The sender: works off the commands of one channel over HTTP, each customer's in order.

It is an outbox of the engine, because HTTP can't be part of a transaction: what it finishes is
committed with a later cycle. One customer's commands go one after the other; customers don't
wait for each other. `agents/settle.py` says what happens to one command.
"""

import asyncio
import logging
import random as random_module
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import partial

from agents.admission import Admission
from agents.channel import Ledger, SendingChannel
from agents.clock import Clock, wall_clock
from agents.dead_letters import attempts_of, dead_letter
from agents.dispatch import origin_of
from agents.holds import HoldView
from agents.metrics import DELIVERIES, EVENT_TO_SENT_SECONDS, PENDING
from agents.outcomes import Refused
from agents.patience import Patience
from agents.settle import Job, Lookup, RevokedError, Settler
from streams import tracing
from streams.decoding import InvalidRecordError, decode_notification
from streams.engine.outbox import Finish, OutboxRecord
from streams.engine.types import Crash, Output, crash_of
from streams.records import Delivery, Notification, encode
from streams.times import SECOND, format_moment, parse_instant

log = logging.getLogger(__name__)

MOST_AT_ONCE = 64
MOST_PENDING = 5000
# One recipient takes no more of the window than this, however much waits for it: others of the
# partition are read on. What is begun in all is bounded too, because the state lists it.
MOST_OF_ONE = 500
MOST_BEGUN = 4 * MOST_PENDING
GRACE_SECONDS = 1.5


@dataclass
class _Lane:
    """One customer's commands of one partition, in order."""

    recipient: str
    """Whose part of the window they take: the customer, until it is known whom they go to."""
    waiting: deque[tuple[OutboxRecord, Notification | InvalidRecordError, float]] = field(
        default_factory=deque
    )
    """Each with the moment it came."""
    task: asyncio.Task[None] | None = None
    job: Job | None = None
    """What `task` is working on."""


class _Window:
    """How much is begun and not finished in one partition, in all and for each recipient."""

    def __init__(self) -> None:
        self.begun = 0
        self.taken = 0
        """What counts of it: of each recipient so many at most."""
        self.of: Counter[str] = Counter()

    def change(self, recipient: str, number: int) -> None:
        """Count so many more, or fewer."""
        before = self.of[recipient]
        after = before + number
        self.begun += number
        self.taken += min(after, MOST_OF_ONE) - min(before, MOST_OF_ONE)
        if after:
            self.of[recipient] = after
        else:
            del self.of[recipient]


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
        self._now = now
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
        self._windows: dict[int, _Window] = {}
        self._finish: Finish | None = None
        self._crash: Crash | None = None

    def bind(self, finish: Finish, crash: Crash) -> None:
        """See `Outbox`."""
        self._finish, self._crash = finish, crash

    def on_assigned(self, partition: int) -> None:
        """A partition's records will come."""
        self._windows[partition] = _Window()

    def take(self, partition: int, records: Sequence[OutboxRecord]) -> None:
        """Begin work on records, in their order. Returns at once."""
        now = asyncio.get_running_loop().time()
        for record in records:
            command: Notification | InvalidRecordError
            try:
                command = decode_notification(record.key, record.value)
                customer = command.account_id or f"openid {command.openid}"
                recipient = command.openid or f"account {customer}"
            except InvalidRecordError as error:
                # Only another version's dispatch can have let it through.
                command, customer = error, repr(record.key)
                recipient = customer
            lane = self._lanes.get((partition, customer))
            if lane is None:
                lane = self._lanes[partition, customer] = _Lane(recipient)
                lane.task = asyncio.create_task(self._work_off(partition, customer, lane))
                if self._crash is not None:
                    # Else what waits in the lane would wait for ever, and nobody would know.
                    lane.task.add_done_callback(partial(crash_of, self._crash))
            lane.waiting.append((record, command, now))
            self._count(partition, lane.recipient, 1)
            self._give_up_too_many(partition, lane.recipient)

    def pending(self, partition: int) -> int:
        """How much of a partition's window is taken: what is begun and not finished, but of each
        recipient no more than its share."""
        window = self._windows.get(partition)
        if window is None:
            return 0
        return window.taken if window.begun < MOST_BEGUN else max(window.taken, self.max_pending)

    def _give_up_too_many(self, partition: int, recipient: str) -> None:
        """Where a limited recipient's messages would fill what can be begun at all, they end now
        and not with the limit's next try."""
        limits = self._channel.limits
        if self._windows[partition].of[recipient] > MOST_PENDING and limits.is_limited(recipient):
            limits.give_up(recipient)

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
            window = self._windows.pop(partition, None)
            if window is not None:
                PENDING.labels(self._channel.name).dec(window.begun)

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
                record, command, taken_at = lane.waiting[0]
                if isinstance(command, InvalidRecordError):
                    outputs = [self._bury(partition, record, str(command))]
                else:
                    coordinates = f"{self.topic}-{partition}-{record.offset}"
                    if tracing.on() is not None:
                        tracing.parent.set(tracing.traceparent_of(record.headers))

                    def on_recipient(recipient: str) -> None:
                        self._move(partition, lane, recipient)

                    lane.job = Job(
                        command,
                        record.key,
                        coordinates,
                        taken_at,
                        on_recipient,
                        is_again=attempts_of(record.headers) > 0,
                    )
                    ended = await self._settle(lane.job)
                    self._note_sent(command, ended)
                    outputs = self._outputs(partition, record, ended)
                    is_revoked = lane.job.is_revoked
                    lane.job = None
                lane.waiting.popleft()
                self._count(partition, lane.recipient, -1)
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
            topic, partition, offset = job.coordinates.rsplit("-", 2)
            where = {"topic": topic, "partition": int(partition), "offset": int(offset)}
            log.error(
                "%s: %s at %s",
                self._channel.name,
                kind,
                job.coordinates,
                extra=where | {"notification_id": job.command.notification_id},
            )
            said = f"internal error: {kind}"
            try:
                return await self._settler.give_up(job, said)
            except RevokedError:
                raise
            except Exception as again:
                kind = type(again).__name__
                log.error("%s: that this ended isn't remembered: %s", self._channel.name, kind)
                return [self._settler.describe(job, Refused(said))]

    def _note_sent(self, command: Notification, ended: list[Delivery] | None) -> None:
        if any(delivery.status == "sent" for delivery in ended or ()):
            waited = (self._now() - parse_instant(command.occurred_at)) / SECOND
            EVENT_TO_SENT_SECONDS.labels(self._channel.name).observe(max(waited, 0.0))

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
        own, origin = origin_of(record.headers)
        topic, number, offset = origin or (self.topic, partition, record.offset)
        return dead_letter(
            self._dead_letters,
            topic=topic,
            partition=number,
            offset=offset,
            key=record.key,
            value=record.value,
            reason=reason,
            at=format_moment(self._now(), self._zone),
            headers=own,
        )

    def _move(self, partition: int, lane: _Lane, recipient: str) -> None:
        """It is known whom a lane's messages go to: they take that recipient's part."""
        if recipient != lane.recipient:
            self._count(partition, lane.recipient, -len(lane.waiting))
            lane.recipient = recipient
            self._count(partition, recipient, len(lane.waiting))

    def _count(self, partition: int, recipient: str, change: int) -> None:
        self._windows.setdefault(partition, _Window()).change(recipient, change)
        PENDING.labels(self._channel.name).inc(change)


def _reason(delivery: Delivery) -> str:
    """Return why it isn't sent, from a closed set: metrics have it as a label."""
    if delivery.status == "skipped":
        return delivery.error or ""
    if delivery.status == "failed":
        return str(delivery.error_code or "given up")
    return ""

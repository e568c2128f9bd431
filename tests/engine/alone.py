"""An engine without Kafka: takeover, reading and commits are fakes that a test controls."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.outbox import Finish, OutboxRecord
from streams.engine.phases import Phase
from streams.engine.state import State, Table
from streams.engine.takeover import Positions, Share, Taken, Takeover
from streams.engine.types import TP, Chunk, Crash, Source
from streams.kafka.protocol import Membership
from tests.engine.inprocess import eventually

ACCOUNTS, CALLS, OUTBOX = TP("accounts", 0), TP("calls", 0), TP("outbox", 0)
NUMBERS = Table(b"x", int)


class Read(NamedTuple):
    """A record as it was read."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes = b""
    headers: tuple[()] = ()


class Reading:
    """A `Reading` for which every log ends where it was read up to, except those of the topics
    given."""

    def __init__(self, *unread: str) -> None:
        self.unread = set(unread)
        self.positions: dict[TP, int] = {}

    async def seek_all(self, positions: dict[TP, int]) -> None:
        pass

    def is_read_up(self, tp: TP, position: int) -> bool:
        return tp.topic not in self.unread

    def end_of(self, tp: TP) -> int | None:
        return None

    def is_held(self, tp: TP) -> bool:
        return False

    def read_to(self, tp: TP) -> int | None:
        return self.positions.get(tp)


class Producer:
    """A producer whose commits succeed after a moment, or fail."""

    transactional_id = "group-w1"

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.ends: dict[Any, int] = {}
        """The logs' ends behind what the next commits write."""
        self.offsets: dict[TP, int] = {}
        self.begun = 0
        self.may_commit = asyncio.Event()
        self.may_commit.set()

    def partition_count(self, topic: str) -> int:
        return 1

    async def commit(
        self,
        records: Mapping[Any, Sequence[Any]],
        offsets: dict[TP, int],
        membership: Membership,
        check: Callable[[Mapping[Any, int]], None],
    ) -> dict[Any, int]:
        self.begun += 1
        await self.may_commit.wait()
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        check(self.ends)
        self.offsets |= offsets
        return dict(self.ends)

    async def end(self) -> None:
        pass


class Logs:
    """A reader whose topics stay what they are, and which deletes nothing."""

    async def topic_ids(self, known: Mapping[str, bytes]) -> dict[str, bytes]:
        return dict(known)

    async def delete_before(self, offsets: Mapping[TP, int]) -> set[str]:
        return set()


class ScriptedTakeover(Takeover):
    """A takeover that succeeds at once, unless `script` raises or waits."""

    script: Callable[[int], Awaitable[None]] | None = None
    """Called with the attempt's number, from 1."""

    def __init__(self, config: EngineConfig, crash: Crash) -> None:
        super().__init__(config, crash)
        self.reader: Any = Logs()
        self.attempts = 0
        self.happened: list[str] = []

    async def attempt(self, share: Share, states: dict[int, State], **how: Any) -> Taken:
        self.attempts += 1
        if self.script is not None:
            await self.script(self.attempts)
        for tp in share.tps:
            states.setdefault(tp.partition, State(tp.partition)).discard()
        topics = {tp.topic: b"id" for tp in share.tps}
        start = dict.fromkeys(share.tps, 0)
        start.update((tp, at) for tp, at in self.producer.offsets.items() if tp in start)
        return Taken(
            {tp: self.sources[tp.topic] for tp in share.tps if tp.topic in self.sources},
            {tp: self.outboxes[tp.topic] for tp in share.tps if tp.topic in self.outboxes},
            Positions(start, topic_ids=topics),
            {},
            topics,
        )

    async def disconnect(self) -> None:
        self.happened.append("disconnected")

    async def end(self) -> None:
        self.happened.append("ended")

    async def close(self) -> None:
        self.happened.append("closed")


class Outbox:
    """An outbox that takes a moment to give its partitions up."""

    topic = "outbox"
    max_pending = 10

    def __init__(self) -> None:
        self.revoked: list[int] = []

    def bind(self, finish: Finish, crash: Crash) -> None:
        pass

    def on_assigned(self, partition: int) -> None:
        pass

    def take(self, partition: int, records: Sequence[OutboxRecord]) -> None:
        pass

    def pending(self, partition: int) -> int:
        return 0

    async def on_revoked(self, partitions: Collection[int]) -> None:
        await asyncio.sleep(0.05)
        self.revoked += partitions


class Alone:
    """An engine that folds calls: it stores each key, and raises at the key `raise`."""

    def __init__(
        self,
        takeover: Callable[[EngineConfig, Crash], Takeover] = ScriptedTakeover,
        **limits: Any,
    ) -> None:
        self.crashes: list[Exception] = []
        self.folded: list[bytes] = []
        self.producer = Producer()
        self.outbox = Outbox()
        self.takeover: Any
        self.stopping: asyncio.Task[None]

        def take_over(config: EngineConfig, crash: Crash) -> Takeover:
            self.takeover = takeover(config, crash)
            self.takeover.producer = self.producer
            return self.takeover

        self.engine = Engine(
            EngineConfig(
                group="group",
                worker_id="w1",
                changelog="changelog",
                output_topics=(),
                queues=frozenset(),
                session_timeout_s=6.0,
                client_options={"bootstrap_servers": "127.0.0.1:1"},
                **limits,
            ),
            self.crashes.append,
            takeover=take_over,
        )
        self.reading = Reading()
        self.engine.bind(self.reading)
        self.engine.add_source(Source("accounts", lambda chunk: None, is_read_first=True))
        self.engine.add_source(Source("calls", self._fold, is_timed=True))
        self.engine.add_outbox(self.outbox)

    def _fold(self, chunk: Chunk) -> None:
        for record in chunk.records:
            if record.key == b"raise":
                raise ZeroDivisionError
            self.folded.append(record.key or b"")
            chunk.state.put(NUMBERS, record.key or b"", 1)

    async def assign(self, *tps: TP) -> None:
        await self.engine.on_assigned(set(tps), Membership("group", 1, "member"))

    async def run(self) -> None:
        """Assign its share, and wait until it runs."""
        await self.assign(ACCOUNTS, CALLS, OUTBOX)
        await self.until(Phase.RUNNING)

    def feed(self, *keys: bytes, first: int = 0, reader: object | None = None) -> None:
        """Feed calls with these keys, from offset `first` on. `reader`: the token that they were
        read with; None: the present one."""
        records: list[Any] = [Read(offset, 1, key) for offset, key in enumerate(keys, first)]
        self.engine.feed(reader or self.engine.reader, CALLS, records)

    async def until(self, phase: Phase) -> None:
        await eventually(lambda: self.engine.phase is phase, f"{phase.name}", every_s=0.002)

    async def until_committed(self, offset: int) -> None:
        await eventually(lambda: self.producer.offsets.get(CALLS) == offset, "committed")

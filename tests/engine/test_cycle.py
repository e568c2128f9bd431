"""What one cycle takes of each source: everyone moves in every round, and nothing floods.

A cycle alone, with a producer that keeps what is committed: no Kafka.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from streams.engine import cycle
from streams.engine.cycle import Cycle
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Origin, Output, Source
from streams.kafka.protocol import Membership
from tests.engine.alone import NUMBERS, Read, Reading

PARTITIONS = 4


class Producer:
    """Commits whatever it is given, after a moment."""

    def __init__(self) -> None:
        self.offsets: dict[TP, int] = {}
        self.history: list[dict[TP, int]] = []
        """The group's offsets after each commit."""
        self.emitted: list[int] = []
        """How many records each commit wrote, apart from the changelog."""
        self.bytes: list[int] = []
        self.has_committed = asyncio.Event()

    def partition_count(self, topic: str) -> int:
        return PARTITIONS

    async def commit(
        self,
        records: Mapping[Any, Sequence[Any]],
        offsets: dict[TP, int],
        membership: Membership,
        check: Callable[[Mapping[Any, int]], None],
    ) -> dict[Any, int]:
        await asyncio.sleep(0.01)
        self.offsets |= offsets
        self.history.append(dict(self.offsets))
        self.has_committed.set()
        outputs = [one for to, those in records.items() if to[0] != "changelog" for one in those]
        self.emitted.append(len(outputs))
        self.bytes.append(sum(len(value or b"") for _, value, _ in outputs))
        return {}


class Engine:
    """A cycle over some sources of four partitions, all of them read up but `unread`."""

    def __init__(self, *sources: Source, unread: str = "") -> None:
        self.producer = Producer()
        self.failed: list[Exception] = []
        tps = {TP(one.topic, n): one for one in sources for n in range(PARTITIONS)}
        self.cycle = Cycle(
            sources=tps,
            outboxes={},
            states={n: State(n) for n in range(PARTITIONS)},
            positions=dict.fromkeys(tps, 0),
            read_first={},
            reading=Reading(unread),
            topic_ids={one.topic: b"id" for one in sources},
            changelog="changelog",
            producer=self.producer,  # type: ignore[arg-type]
            membership=Membership("g", 1, "m"),
            on_failure=self.failed.append,
        )

    def feed(
        self,
        topic: str,
        partition: int,
        keys: Iterable[str],
        timestamp: int = 1,
        value: bytes = b"",
    ) -> None:
        tp = TP(topic, partition)
        start = self.cycle._buffers[tp].position
        records: list[Any] = [
            Read(start + number, timestamp, key.encode(), value) for number, key in enumerate(keys)
        ]
        self.cycle.feed(tp, records)

    async def run(self, wanted: int) -> None:
        """Fold until so many records are committed."""
        running, producer = asyncio.create_task(self.cycle.run()), self.producer
        async with asyncio.timeout(60):
            while sum(producer.offsets.values()) < wanted:
                await producer.has_committed.wait()
                producer.has_committed.clear()
        await self.cycle.finish_commit(1)
        await running
        assert not self.failed


def remembering(chunk: Chunk) -> None:
    """Each record is a key of its own."""
    for record in chunk.records:
        chunk.state.put(NUMBERS, record.key or b"", 1)


CALLS = Source("calls", remembering, order=2, is_timed=True)


@pytest.fixture
def small_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "ROUND_RECORDS", 2_000)
    monkeypatch.setattr(cycle, "MAX_CYCLE_KEYS", 2_000)
    # Only what is read ends a cycle: at the end, where no backlog is left, time would too.
    monkeypatch.setattr(cycle, "CYCLE_SECONDS", 3600.0)
    monkeypatch.setattr(cycle, "BACKLOG_CYCLE_SECONDS", 3600.0)


@pytest.mark.usefixtures("small_cycles")
async def test_partitions_of_a_backlog_go_on_side_by_side() -> None:
    engine = Engine(CALLS)
    backlog = 4_000
    for partition in range(PARTITIONS):
        engine.feed("calls", partition, (f"{partition}-{n}" for n in range(backlog)))
    await engine.run(PARTITIONS * backlog)

    drifts = [
        max(at.values()) - min(at.get(TP("calls", n), 0) for n in range(PARTITIONS))
        for at in engine.producer.history
    ]
    assert len(drifts) >= 8  # 16,000 keys don't fit into one cycle
    assert max(drifts) <= cycle.ROUND_RECORDS / PARTITIONS


@pytest.mark.usefixtures("small_cycles")
async def test_every_kind_of_source_moves_in_every_round_of_a_backlog() -> None:
    kinds = ["calls", "lines", "commands"]
    engine = Engine(*(Source(kind, remembering, order=n) for n, kind in enumerate(kinds)))
    backlog = 4_000
    for kind in kinds:
        for partition in range(PARTITIONS):
            engine.feed(kind, partition, (f"{kind}{partition}-{n}" for n in range(backlog)))
    await engine.run(len(kinds) * PARTITIONS * backlog)

    everyone = {TP(kind, n) for kind in kinds for n in range(PARTITIONS)}
    round_ = -(-len(everyone) * cycle.ROUND_RECORDS // PARTITIONS // cycle.MAX_CYCLE_KEYS)
    moved = [
        {tp for tp, offset in after.items() if offset > before.get(tp, 0)}
        for before, after in zip(
            [{}, *engine.producer.history], engine.producer.history, strict=False
        )
    ]
    assert len(moved) > 5 * round_
    for first in range(len(moved) - 2 * round_):
        assert set().union(*moved[first : first + round_ + 1]) == everyone


def loud(outputs: int, size: int = 1) -> Any:
    """A fold that emits so many records of so many bytes for each that it reads, while there is
    room, and remembers how far it came with the record it stopped at."""

    def fold(chunk: Chunk) -> None:
        for at, record in enumerate(chunk.records):
            key = record.key or b""
            said = chunk.state.get(NUMBERS, key) or 0
            while said < outputs and chunk.room() > 0:
                chunk.emit(Output("out", chunk.tp.partition, key, b"v" * size))
                said += 1
            chunk.state.put(NUMBERS, key, said)
            if said < outputs:
                chunk.unfinished = chunk.records[at:]
                return

    return fold


@pytest.mark.parametrize("is_bulk", [False, True])
async def test_a_record_that_emits_a_hundred_thousand_takes_as_many_cycles_as_it_needs(
    is_bulk: bool,
) -> None:
    outputs = 6_000 if is_bulk else 50_000
    engine = Engine(Source("loud", loud(outputs), is_bulk=is_bulk), CALLS)
    engine.feed("loud", 1, ["a", "b"])
    engine.feed("calls", 1, ["x"], timestamp=9)
    await engine.run(3)
    assert sum(engine.producer.emitted) == 2 * outputs
    most = cycle.BULK_OUTPUTS if is_bulk else cycle.MAX_CYCLE_OUTPUTS
    assert max(engine.producer.emitted) <= most
    # Whoever is not concerned didn't wait for the end of it.
    assert engine.producer.history[1][TP("calls", 1)] == 1


async def test_what_nobody_waits_for_has_a_smaller_share_beside_alerts() -> None:
    def alerting(chunk: Chunk) -> None:
        chunk.hurry()

    engine = Engine(Source("alerts", alerting), Source("loud", loud(1_000), is_bulk=True))
    engine.feed("loud", 1, ["a"])
    engine.feed("alerts", 1, ["x"])
    await engine.run(2)
    assert sum(engine.producer.emitted) == 1_000
    assert engine.producer.emitted[0] <= cycle.BULK_OUTPUTS_BESIDE_ALERTS


async def test_bytes_count_too() -> None:
    engine = Engine(Source("loud", loud(100, size=1 << 20)))
    engine.feed("loud", 0, ["a"])
    await engine.run(1)
    assert sum(engine.producer.emitted) == 100
    assert max(engine.producer.bytes) <= cycle.MAX_CYCLE_BYTES + (1 << 20)


async def test_what_an_output_is_made_of_counts_too() -> None:
    """It is in memory until the commit, in case that the output is refused."""

    def fold(chunk: Chunk) -> None:
        for record in chunk.records:
            told = Output("told", 0, record.key, b"")
            origin = Origin(chunk.tp, record, told)
            chunk.emit(Output("out", 0, record.key, b"", origin=origin))

    engine = Engine(Source("long", fold))
    for partition in range(PARTITIONS):
        engine.feed("long", partition, "abcdefghij", value=bytes(1 << 20))
    await engine.run(10 * PARTITIONS)
    assert max(engine.producer.emitted) <= 20


async def test_a_clock_that_isnt_done_holds_up_what_came_after_it() -> None:
    seen: list[str] = []

    def late(chunk: Chunk) -> None:
        value = chunk.state.peek(NUMBERS, b"tick")
        seen.append(f"{value}")

    calls = Source("calls", late, order=2, is_timed=True)
    engine = Engine(Source("ticks", loud(50_000), order=4, is_clock=True), calls)
    engine.feed("ticks", 0, ["tick"], timestamp=5)
    engine.feed("calls", 0, ["x"], timestamp=6)
    await engine.run(2)
    assert seen == ["50000"]


async def test_in_a_backlog_an_alert_waits_a_moment_and_not_for_the_cycle_s_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cycle, "BACKLOG_CYCLE_SECONDS", 3600.0)
    ticks = Source("ticks", remembering, order=4, is_clock=True)
    commands = Source("commands", lambda chunk: chunk.hurry(), order=7)
    engine = Engine(CALLS, ticks, commands, unread="ticks")
    for partition in range(PARTITIONS):  # the backlog stays: a tick could come first
        engine.feed("calls", partition, map(str, range(cycle.BACKLOG_RECORDS)))
    engine.feed("commands", 3, ["alert"])
    await engine.run(1)

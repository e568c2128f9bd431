"""What an engine does when assignments, failures and its own stop cross each other's way."""

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import IllegalGenerationError, KafkaConnectionError

from streams.engine.consumer import _ConsumerThread
from streams.engine.cycle import Cycle
from streams.engine.engine import Engine, EngineConfig, PartitionsSplitError
from streams.engine.outbox import UNFINISHED, Finish, OutboxRecord, Window, _Unfinished
from streams.engine.state import State, Table
from streams.engine.types import TP, Source
from streams.kafka.fetching import _FetchResult
from streams.kafka.log_reader import ChangelogCutError, LogReader
from streams.kafka.producer import TransactionalProducer
from streams.kafka.protocol import Membership, TxnOffsetCommit
from streams.kafka.transactions import OFFSETS_TOPIC
from tests.installation import Installation

CALLS = TP("calls", 0)
NUMBERS = Table(b"x", int)


class SlowCycle:
    """A cycle whose commit failed, and that needs a moment to end."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.fed: list[Any] = []
        self.is_rest_committed = False

    async def commit_rest(self, within_s: float) -> None:
        self.is_rest_committed = True

    async def finish_commit(self, within_s: float) -> bool:
        await asyncio.sleep(0.05)
        self.state.discard()
        return False

    def feed(self, tp: TP, records: list[Any]) -> None:
        self.fed += records


class Outbox:
    topic = "outbox"
    max_pending = 10

    def __init__(self) -> None:
        self.revoked: list[int] = []

    def bind(self, finish: Finish) -> None:
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


@pytest.fixture
def engine() -> Engine:
    made = Engine(
        EngineConfig(
            group="group",
            worker_id="w1",
            changelog="changelog",
            output_topics=(),
            queues=frozenset(),
            session_timeout_s=6.0,
            client_options={"bootstrap_servers": "127.0.0.1:1"},
        )
    )
    made.crashed = []  # type: ignore[attr-defined]
    made.crash = made.crashed.append  # type: ignore[attr-defined]
    return made


def running(engine: Engine, state: State, outbox: Outbox) -> SlowCycle:
    """Put the engine where an assignment is being worked on."""

    async def folding() -> None:
        pass

    cycle = SlowCycle(state)
    engine.add_outbox(outbox)
    engine._assigned = {CALLS, TP("outbox", 0)}
    engine._membership = Membership("group", 1, "member")
    engine._member_id = "member"
    engine.states = {0: state}
    engine._cycle = cycle  # type: ignore[assignment]
    engine._running = asyncio.create_task(folding())
    return cycle


async def test_a_revocation_in_the_middle_of_a_recovery_leaves_nothing_half_done(
    engine: Engine,
) -> None:
    state, outbox = State(0), Outbox()
    state.put(NUMBERS, b"k", 7)  # folded, and its commit failed
    running(engine, state, outbox)
    engine._on_commit_failed(TimeoutError())
    await asyncio.sleep(0.01)  # the recovery has begun

    await engine.on_revoked()

    assert state.get(NUMBERS, b"k") is None
    assert outbox.revoked == [0]
    assert engine.crashed == []  # type: ignore[attr-defined]


async def test_what_was_read_for_a_cycle_that_ended_is_not_fed_to_the_next(
    engine: Engine,
) -> None:
    old = running(engine, State(0), Outbox())
    reader = engine.reader
    new = SlowCycle(State(0))
    engine._cycle = new  # type: ignore[assignment]

    engine.feed(reader, CALLS, ["record"])  # type: ignore[list-item]
    assert (old.fed, new.fed) == ([], [])
    engine.feed(engine.reader, CALLS, ["record"])  # type: ignore[list-item]
    assert new.fed == ["record"]


@pytest.mark.parametrize(
    ("member_id", "kept"),
    [
        ("member", {0}),  # a rebalance it took part in
        ("another", set()),  # it was away for nobody knows how long
    ],
)
async def test_a_worker_that_was_away_restores_all_its_state_anew(
    engine: Engine, member_id: str, kept: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing() -> None:
        pass

    monkeypatch.setattr(engine, "_take_over", nothing)
    running(engine, State(0), Outbox())
    engine._cycle = None
    engine.on_assigned({CALLS}, Membership("group", 2, member_id))
    assert set(engine.states) == kept
    await engine._stop_takeover()


async def test_what_a_fold_did_before_it_raised_is_not_committed(engine: Engine) -> None:
    # Its offsets aren't there, so the whole batch is folded again after the restart.
    cycle = running(engine, State(0), Outbox())

    async def raising() -> None:
        raise ZeroDivisionError

    cycle.run = raising  # type: ignore[attr-defined]
    await engine._run(cycle)  # type: ignore[arg-type]
    assert len(engine.crashed) == 1  # type: ignore[attr-defined]
    await engine.stop()
    assert not cycle.is_rest_committed


async def test_what_is_folded_is_committed_at_a_stop(engine: Engine) -> None:
    cycle = running(engine, State(0), Outbox())
    await engine.stop()
    assert cycle.is_rest_committed


@pytest.mark.parametrize(
    "assigned",
    [
        {TP("accounts", 0), TP("calls", 1), TP("outbox", 0)},
        {TP("accounts", 0), TP("calls", 0)},  # the assignor didn't know of the outbox yet
    ],
)
async def test_a_record_is_never_folded_on_a_state_that_is_not_there(
    engine: Engine, assigned: set[TP], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(topics: list[str]) -> None:
        pass

    async def all_there(topics: list[str]) -> dict[str, bytes]:
        return dict.fromkeys(topics, b"")

    monkeypatch.setattr(engine._reader, "open", nothing)
    monkeypatch.setattr(engine._reader, "topic_ids", all_there)
    engine.add_source(Source("accounts", lambda batch: None, is_read_first=True))
    engine.add_source(Source("calls", lambda batch: None, is_timed=True))
    engine.add_outbox(Outbox())
    monkeypatch.setattr("streams.engine.engine._LOOK_AGAIN_S", 0.0)
    engine.on_assigned(assigned, Membership("group", 1, "member"))
    await asyncio.sleep(0.05)
    assert [type(error) for error in engine.crashed] == [  # type: ignore[attr-defined]
        PartitionsSplitError
    ]


async def test_a_cancellation_that_is_not_its_own_does_not_end_a_takeover(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # aiokafka's stop() raises it when a connection was lost; the worker would idle for ever.
    tries = []

    async def leaking(limit: asyncio.Timeout) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise asyncio.CancelledError

    monkeypatch.setattr(engine, "_try_take_over", leaking)
    monkeypatch.setattr("streams.engine.engine._RECOVER_AGAIN_S", 0.01)
    engine.on_assigned({CALLS}, Membership("group", 1, "member"))
    await asyncio.sleep(0.1)
    assert len(tries) == 2


async def test_a_takeover_that_hangs_is_begun_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    async def hanging(limit: asyncio.Timeout) -> None:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)

    monkeypatch.setattr(engine, "_try_take_over", hanging)
    monkeypatch.setattr("streams.engine.engine._NO_PROGRESS_S", 0.05)
    monkeypatch.setattr("streams.engine.engine._RECOVER_AGAIN_S", 0.01)
    engine.on_assigned({CALLS}, Membership("group", 1, "member"))
    await asyncio.sleep(0.3)
    assert len(tries) == 2
    assert "nothing moved for 0 s in a takeover (_take_over), trying on" in caplog.text


async def test_what_a_cut_off_takeover_was_committing_is_ended_before_others_take_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []

    async def committing(limit: asyncio.Timeout) -> None:
        happened.append("claimed")
        try:
            await asyncio.sleep(60)
        finally:
            happened.append("cut off")

    async def end() -> None:
        happened.append("ended")

    monkeypatch.setattr(engine, "_try_take_over", committing)
    monkeypatch.setattr(engine._producer, "end", end)
    engine.on_assigned({CALLS}, Membership("group", 1, "member"))
    await asyncio.sleep(0.01)
    await engine.on_revoked()
    assert happened == ["claimed", "cut off", "ended"]


async def test_a_broker_that_knows_of_no_broker_yet_is_one_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start(producer: AIOKafkaProducer) -> None:
        raise AssertionError("Did we not perform bootstrap?")

    monkeypatch.setattr(AIOKafkaProducer, "start", start)
    producer = TransactionalProducer("worker", {"bootstrap_servers": "localhost:1"})
    with pytest.raises(KafkaConnectionError, match="no broker yet"):
        await producer.open()


async def test_where_partitions_are_is_asked_for_all_topics_at_once(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def update(client: AIOKafkaClient, cluster: ClusterMetadata, topics: set[str]) -> bool:
        asked.append(set(topics))
        return bool(await real(client, cluster, topics))

    real = AIOKafkaClient._metadata_update
    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", update)
    of = installation.topics
    topics = [of.calls, of.recharges, of.accounts, of.announcements, of.ticks, of.notifications]
    reader = LogReader({"bootstrap_servers": installation.brokers})
    try:
        await reader.open(topics)
        await reader.ends(TP(topic, 0) for topic in topics)
    finally:
        await reader.close()
    # More than once where a new topic has no leader yet, but not for one topic after the other.
    assert asked
    assert all(asked_for == {*topics, OFFSETS_TOPIC} for asked_for in asked)


async def test_a_tick_that_waits_for_a_marker_is_folded_when_the_marker_was_read() -> None:
    folded, is_read_up = [], False
    ticks = TP("ticks", 0)
    cycle = Cycle(
        sources={
            CALLS: Source("calls", lambda batch: None, is_timed=True),
            ticks: Source("ticks", folded.append, is_clock=True),
        },
        outboxes={},
        states={0: State(0)},
        positions={CALLS: 0, ticks: 0},
        read_first={},
        is_read_up=lambda tp, offset: is_read_up,
        read_to=lambda tp: None,
        topic_ids={},
        changelog="changelog",
        producer=None,  # type: ignore[arg-type]
        membership=Membership("group", 1, "member"),
        on_failure=lambda error: None,
    )
    running = asyncio.create_task(cycle.run())
    cycle.feed(ticks, [SimpleNamespace(offset=0, timestamp=1)])  # type: ignore[list-item]
    await asyncio.sleep(0.01)
    assert folded == []

    is_read_up = True  # no record came
    cycle.look_again()
    await asyncio.sleep(0.01)
    assert len(folded) == 1
    running.cancel()


async def test_a_stopped_engine_takes_nothing_over(engine: Engine) -> None:
    await engine.stop()
    engine.on_assigned({CALLS}, Membership("group", 2, "member"))
    assert engine.assigned == set()


@pytest.mark.parametrize("membership", [("group", -1, "member"), ("group", 3, "")])
def test_nothing_is_committed_without_a_generation(membership: tuple[str, int, str]) -> None:
    # aiokafka's coordinator has -1 and "" when the session ended meanwhile: the group goes on
    # without this worker, which is no reason to stop.
    with pytest.raises(IllegalGenerationError):
        TxnOffsetCommit("id", 1, 1, Membership(*membership), {CALLS: 1})


@pytest.mark.parametrize(
    ("begins", "end", "position"),
    [
        (5, 9, 0),  # a restart: the first five changes are gone
        (5, 9, 7),
        (0, 3, 7),  # the topic was made anew under a running worker
    ],
)
async def test_a_changelog_that_is_not_whole_stops_the_worker(
    begins: int, end: int, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, tp, state = LogReader({}), TP("changelog", 0), State(0)
    state.position = position

    async def beginnings(tps: object) -> dict[TP, int]:
        return {tp: begins}

    monkeypatch.setattr(reader, "beginnings", beginnings)
    with pytest.raises(ChangelogCutError, match=f"holds {begins} to {end}"):
        await reader.restore({tp: state}, {tp: end}, lambda: None)


def test_offsets_that_somebody_set_forward_are_not_taken_back_by_a_window() -> None:
    state = State(0)
    state.put(UNFINISHED, b"outbox", _Unfinished(9, [4, 8]))
    window = Window(state, "outbox", 7)  # 4 was skipped by whoever set the offset to 7
    assert window.settle(None) == 8
    window.finish(8)
    assert window.settle(None) == 10


class PartitionState:
    """As aiokafka has it."""

    highwater = lso = 10
    has_valid_position = True
    paused = False

    def __init__(self) -> None:
        self.position = 8
        self.seen: list[bool] = []

    def consumed_to(self, position: int) -> None:
        self.position = position
        self.seen.append(getattr(self, "is_handing_over", False))


def test_a_log_is_not_read_up_while_its_last_records_are_on_their_way() -> None:
    partition = PartitionState()
    assignment = SimpleNamespace(active=True, tps={CALLS}, state_value=lambda tp: partition)
    consumer = SimpleNamespace(
        _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    )
    thread: Any = SimpleNamespace(
        _ensure_consumer=lambda: consumer,
        _state_of=lambda tp: _ConsumerThread._state_of(thread, tp),
        read_to=lambda tp: _ConsumerThread.read_to(thread, tp),
    )

    class Fetched:
        next_fetch_offset = 8

        def __iter__(self) -> Any:
            yield ["record 8"]
            self.next_fetch_offset = 10  # 9 is a marker

    result = _FetchResult(CALLS, assignment=assignment, partition_records=Fetched(), backoff=0)
    assert result.getall() == ["record 8"]
    assert partition.seen == [True]  # before the position moves
    assert not _ConsumerThread.is_read_up(thread, CALLS, 8)
    _ConsumerThread.note_handed_over(thread, [CALLS])
    assert _ConsumerThread.is_read_up(thread, CALLS, 9)

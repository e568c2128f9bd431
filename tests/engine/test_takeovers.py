"""What an engine does when assignments, failures and its own stop cross each other's way."""

import asyncio
from collections.abc import Collection, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
)

from streams.engine import cycle as cycle_module
from streams.engine import takeover
from streams.engine.config import EngineConfig
from streams.engine.consumer import _ConsumerThread
from streams.engine.cycle import Cycle
from streams.engine.log_ends import LogEnds
from streams.engine.phases import Phase
from streams.engine.positions import MissingRecordsError
from streams.engine.state import State
from streams.engine.takeover import (
    PartitionsSplitError,
    Share,
    Takeover,
    end_what_is_left_open,
)
from streams.engine.types import TP, Chunk, Crash, Source
from streams.kafka.fetching import _FetchResult
from streams.kafka.log_reader import ChangelogCutError, LogReader
from streams.kafka.producer import (
    KafkaInvalidRecordError,
    RefusedRecordsError,
    TransactionalProducer,
    WrongClockError,
)
from streams.kafka.protocol import Membership, TxnOffsetCommit
from streams.kafka.transactions import OFFSETS_TOPIC
from tests.engine.alone import ACCOUNTS, CALLS, NUMBERS, OUTBOX, Alone, Read, Reading
from tests.engine.inprocess import eventually
from tests.installation import Installation
from tests.virtual_time import run_virtually


async def test_a_revocation_in_the_middle_of_a_recovery_leaves_nothing_half_done() -> None:
    alone = Alone()
    await alone.run()
    alone.producer.error = TimeoutError()
    alone.feed(b"k")
    await alone.until(Phase.RECOVERING)

    await alone.engine.on_revoked()

    assert alone.engine.phase is Phase.IDLE
    assert alone.engine.states[0].get(NUMBERS, b"k") is None
    assert alone.outbox.revoked == [0]
    assert alone.crashes == []


async def test_what_was_read_for_a_cycle_that_ended_is_not_fed_to_the_next() -> None:
    alone = Alone()
    await alone.run()
    reader = alone.engine.reader
    alone.producer.error = TimeoutError()
    alone.feed(b"a")
    await alone.until(Phase.RECOVERING)
    alone.producer.error = None
    await alone.until(Phase.RUNNING)

    alone.feed(b"b", reader=reader)
    alone.feed(b"a")
    await alone.until_committed(1)
    assert alone.folded == [b"a", b"a"]


@pytest.mark.parametrize(
    ("member_id", "kept"),
    [
        ("member", {0}),  # a rebalance it took part in
        ("another", set()),  # it was away for nobody knows how long
    ],
)
async def test_a_worker_that_was_away_restores_all_its_state_anew(
    member_id: str, kept: set[int]
) -> None:
    alone = Alone()
    await alone.run()
    await alone.engine.on_revoked()
    alone.takeover.script = hanging
    await alone.engine.on_assigned({CALLS}, Membership("group", 2, member_id))
    assert set(alone.engine.states) == kept
    await alone.engine.stop()


async def test_what_a_fold_did_before_it_raised_is_not_committed() -> None:
    # Its offsets aren't there, so the whole batch is folded again after the restart.
    alone = Alone()
    await alone.run()
    alone.producer.may_commit.clear()
    alone.feed(b"a")
    await eventually(lambda: alone.producer.begun == 1, "a is being committed")
    alone.feed(b"b", first=1)  # in the next cycle, which isn't committed before that of a
    await eventually(lambda: alone.folded == [b"a", b"b"], "folded")
    alone.feed(b"c", b"raise", first=2)
    await eventually(lambda: bool(alone.crashes), "crashed")
    alone.producer.may_commit.set()
    await alone.engine.stop()
    assert [type(error) for error in alone.crashes] == [ZeroDivisionError]
    assert alone.folded == [b"a", b"b", b"c"]
    assert alone.producer.offsets == {CALLS: 1}


async def test_what_is_folded_is_committed_at_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle_module, "CYCLE_SECONDS", 3600.0)
    alone = Alone()
    await alone.run()
    alone.feed(b"k")
    await eventually(lambda: alone.folded == [b"k"], "folded")
    assert alone.producer.offsets == {}  # the cycle isn't due yet
    await alone.engine.stop()
    assert alone.producer.offsets == {CALLS: 1}


def looking(unknown_at: Collection[int] = ()) -> tuple[Alone, list[int]]:
    """Return an engine that finds all its topics, but not calls at the looks `unknown_at`; and the
    numbers of its looks so far, from 1."""
    looks: list[int] = []

    class Looking(LogReader):
        async def open(self, topics: Iterable[str]) -> None:
            pass

        async def topic_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
            looks.append(len(looks) + 1)
            gone = {"calls"} if len(looks) in unknown_at else set()
            return dict.fromkeys(set(topics) - gone, b"")

    def usual(config: EngineConfig, crash: Crash) -> Takeover:
        made = Takeover(config, crash)
        made.reader = Looking({})
        return made

    return Alone(takeover=usual, again_after_s=0.0), looks


@pytest.mark.parametrize(
    "assigned",
    [
        {TP("accounts", 0), TP("calls", 1), TP("outbox", 0)},
        {TP("accounts", 0), TP("calls", 0)},  # the assignor didn't know of the outbox yet
    ],
)
async def test_a_record_is_never_folded_on_a_state_that_is_not_there(assigned: set[TP]) -> None:
    alone, looks = looking()
    await alone.engine.on_assigned(assigned, Membership("group", 1, "member"))
    await eventually(lambda: bool(alone.crashes), "crashed")
    assert [type(error) for error in alone.crashes] == [PartitionsSplitError]
    # The group's leader may find a topic a second later, and who follows it hears of that with its
    # next heartbeat, up to 3 s later; brokers may be busy.
    assert len(looks) * EngineConfig.again_after_s >= 1 + 3 + 6
    await alone.engine.on_revoked()


@pytest.mark.parametrize(
    ("unknown_at", "error"),
    [
        ({1, 2, 4, 5, 7, 8}, PartitionsSplitError),  # brokers that have just started
        (set(range(5, 9)), MissingRecordsError),
    ],
)
async def test_a_share_without_a_topic_is_split_unless_the_topic_stays_away(
    unknown_at: set[int], error: type[Exception]
) -> None:
    alone, _ = looking(unknown_at)
    await alone.engine.on_assigned({ACCOUNTS, OUTBOX}, Membership("group", 1, "member"))
    await eventually(lambda: bool(alone.crashes), "crashed")
    assert [type(found) for found in alone.crashes] == [error]
    await alone.engine.on_revoked()


async def hanging(attempt: int) -> None:
    """Never end."""
    await asyncio.sleep(60)


async def test_a_cancellation_that_is_not_its_own_does_not_end_a_takeover() -> None:
    # aiokafka's stop() raises it when a connection was lost; the worker would idle for ever.
    async def leaking(attempt: int) -> None:
        if attempt == 1:
            raise asyncio.CancelledError

    alone = Alone(again_after_s=0.01)
    alone.takeover.script = leaking
    await alone.run()
    assert alone.takeover.attempts == 2


async def test_a_cancellation_that_is_not_its_own_does_not_end_committing() -> None:
    alone = Alone()
    await alone.run()
    alone.producer.error = asyncio.CancelledError()
    alone.feed(b"a")
    await alone.until(Phase.RECOVERING)
    alone.producer.error = None
    await alone.until(Phase.RUNNING)
    alone.feed(b"a")
    await alone.until_committed(1)
    assert alone.crashes == []


@pytest.mark.parametrize(
    "error",
    [
        WrongClockError("changelog", 7384.2),
        RefusedRecordsError({("changelog", 0): [0]}, KafkaInvalidRecordError()),
        RefusedRecordsError({("changelog", 0): [0]}, MessageSizeTooLargeError()),
    ],
)
async def test_what_kafka_never_takes_of_the_state_stops_the_worker_in_one_line(
    error: Exception,
) -> None:
    # In a commit, and where the claim of a takeover is refused.
    committing, claiming = Alone(again_after_s=0.01), Alone(again_after_s=0.01)
    await committing.run()
    committing.producer.error = error
    committing.feed(b"a")
    await eventually(lambda: bool(committing.crashes), "stopped")

    async def refused(attempt: int) -> None:
        raise error

    claiming.takeover.script = refused
    await claiming.assign(ACCOUNTS, CALLS)
    await eventually(lambda: bool(claiming.crashes), "stopped")
    assert committing.crashes == claiming.crashes == [error]
    assert (committing.takeover.attempts, claiming.takeover.attempts) == (1, 1)
    assert committing.producer.begun == 1
    assert "\n" not in str(error)
    assert "nothing is lost" in str(error)


def test_a_wrong_clock_is_told_by_how_much_where_that_is_known() -> None:
    assert ", 2:03:04 ahead of Kafka's)" in str(WrongClockError("calls", 7384.2))
    assert ", 0:05:00 behind Kafka's)" in str(WrongClockError("calls", -300.0))
    assert "Kafka's" not in str(WrongClockError("calls"))


async def test_a_changelog_that_was_cut_is_found_before_the_offsets_are_committed() -> None:
    alone = Alone()
    await alone.run()
    alone.producer.ends = {("changelog", 0): 50}
    alone.feed(b"a")
    await alone.until_committed(1)
    alone.producer.ends = {("changelog", 0): 49}
    alone.feed(b"b", first=1)
    await eventually(lambda: bool(alone.crashes), "stopped")
    assert isinstance(alone.crashes[0], ChangelogCutError)
    assert "holds 0 to 49, and this worker knows it up to 50" in str(alone.crashes[0])
    assert alone.producer.offsets[CALLS] == 1


async def test_offsets_pass_markers_beside_a_commit() -> None:
    # A busy worker always has a transaction or a commit under way.
    alone = Alone(tidy_every_s=0.01)
    await alone.run()
    alone.producer.may_commit.clear()
    alone.feed(b"a")
    await eventually(lambda: alone.producer.begun == 1, "committing")
    alone.feed(b"b", first=1)
    alone.reading.positions[ACCOUNTS] = 7
    await asyncio.sleep(0.05)
    alone.producer.may_commit.set()
    await eventually(lambda: alone.producer.begun == 2, "committing again", every_s=0.001)
    alone.producer.may_commit.clear()
    alone.feed(b"c", first=2)
    await alone.until_committed(2)
    assert alone.producer.offsets[ACCOUNTS] == 7
    alone.producer.may_commit.set()


async def test_a_stop_commits_the_offsets_past_what_was_read_and_counts_for_nothing() -> None:
    # Else, after a holiday longer than the topics keep records, they count as deleted unread.
    alone = Alone()
    await alone.run()
    alone.feed(b"a")
    await alone.until_committed(1)
    alone.reading.positions = {ACCOUNTS: 7, CALLS: 12, OUTBOX: 3}
    await alone.engine.stop()
    assert alone.producer.offsets == {ACCOUNTS: 7, CALLS: 12, OUTBOX: 3}


async def test_a_stop_under_load_commits_what_is_folded_and_the_offsets_past_markers() -> None:
    alone = Alone()
    await alone.run()
    alone.producer.may_commit.clear()
    alone.feed(b"a")
    await eventually(lambda: alone.producer.begun == 1, "committing")
    alone.feed(b"b", first=1)  # folded on top of it
    await eventually(lambda: alone.folded == [b"a", b"b"], "folded")
    alone.reading.positions = {ACCOUNTS: 7, OUTBOX: 3}
    stopping = asyncio.create_task(alone.engine.stop())
    await asyncio.sleep(0.05)
    alone.producer.may_commit.set()
    await stopping
    assert alone.producer.offsets == {CALLS: 2, ACCOUNTS: 7, OUTBOX: 3}


async def test_an_outbox_partition_with_many_bytes_unfinished_is_not_read_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cycle_module, "MOST_OUTBOX_BYTES", 1000)
    alone = Alone()
    await alone.run()
    records: list[Any] = [Read(number, 1, b"k", b"x" * 600) for number in (0, 1)]
    alone.engine.feed(alone.engine.reader, OUTBOX, records[:1])
    assert OUTBOX in alone.engine.wanted()
    alone.engine.feed(alone.engine.reader, OUTBOX, records[1:])
    assert OUTBOX not in alone.engine.wanted()
    alone.engine._finisher("outbox")(0, 0, [])
    assert OUTBOX in alone.engine.wanted()
    await alone.engine.stop()


async def test_a_stop_passes_nothing_that_waits_to_be_folded() -> None:
    alone = Alone()
    await alone.run()
    alone.reading.unread = {"accounts"}  # its records of that time come first
    alone.feed(b"a")
    alone.reading.positions = {CALLS: 12}
    await alone.engine.stop()
    assert CALLS not in alone.producer.offsets


async def test_offsets_do_not_pass_what_is_being_folded() -> None:
    alone = Alone(tidy_every_s=0.01)
    given: list[tuple[Chunk, asyncio.Future[None]]] = []

    def give(chunk: Chunk) -> asyncio.Future[None]:
        given.append((chunk, asyncio.get_running_loop().create_future()))
        return given[-1][1]

    alone.engine.add_source(Source("calls", lambda chunk: None, is_timed=True, give=give))
    await alone.run()
    alone.feed(b"a", b"b")
    await eventually(lambda: len(given) == 1, "given")
    alone.reading.positions[CALLS] = 2
    await asyncio.sleep(0.05)
    chunk, done = given[0]
    chunk.leave(chunk.records[0])  # nothing of it was folded
    done.set_result(None)
    await eventually(lambda: len(given) == 2, "given again")
    await asyncio.sleep(0.1)
    assert CALLS not in alone.producer.offsets
    given[1][1].set_result(None)
    await alone.until_committed(2)


async def test_a_takeover_that_hangs_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    async def hanging_at_first(attempt: int) -> None:
        if attempt == 1:
            await hanging(attempt)

    alone = Alone(again_after_s=0.01, no_progress_s=0.05)
    alone.takeover.script = hanging_at_first
    await alone.run()
    assert alone.takeover.attempts == 2
    assert "nothing moved for 0 s in a takeover (_try_take_over), trying on" in caplog.text


async def test_what_a_cut_off_takeover_was_committing_is_ended_before_others_take_over() -> None:
    alone = Alone()
    happened = alone.takeover.happened

    async def committing(attempt: int) -> None:
        happened.append("claimed")
        try:
            await hanging(attempt)
        finally:
            happened.append("cut off")

    alone.takeover.script = committing
    await alone.engine.on_assigned({CALLS}, Membership("group", 1, "member"))
    await eventually(lambda: happened == ["claimed"], "it claims")
    await alone.engine.on_revoked()
    assert happened == ["claimed", "cut off", "ended"]


async def test_a_takeover_that_goes_on_although_it_was_revoked_folds_nothing() -> None:
    # Some of aiokafka's awaits swallow a cancellation.
    alone = Alone()

    async def swallowing(attempt: int) -> None:
        try:
            await hanging(attempt)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    alone.takeover.script = swallowing
    await alone.engine.on_assigned({CALLS}, Membership("group", 1, "member"))
    await eventually(lambda: alone.takeover.attempts == 1, "begun")
    await alone.engine.on_revoked()
    assert (alone.engine.phase, alone.engine.reader) == (Phase.IDLE, None)
    assert alone.crashes == []


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
    folded, reading = [], Reading("calls")
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
        reading=reading,
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

    reading.unread.clear()  # no record came
    cycle.look_again()
    await eventually(lambda: len(folded) == 1, "folded", every_s=0.002)
    running.cancel()


async def test_a_stopped_engine_takes_nothing_over() -> None:
    engine = Alone().engine
    await engine.stop()
    await engine.on_assigned({CALLS}, Membership("group", 2, "member"))
    assert (engine.phase, engine.assigned) == (Phase.STOPPED, set())


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
        await reader.restore({tp: state}, {tp: end}, lambda part: None)


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


class LeftOpen:
    """Another system's transaction stands open in what is written: the reader that sees it, and
    what looks at hanging transactions. Closed, a reader answers nobody."""

    def __init__(self) -> None:
        self.is_closed = False
        self.looks = 0

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        return dict.fromkeys(tps, 10)

    async def stable_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        if self.is_closed:
            raise RuntimeError("the reader is not open")
        return dict.fromkeys(tps, 5)

    async def mend(self) -> bool:
        self.looks += 1
        return False


def test_another_system_s_open_transaction_is_looked_at_less_and_less() -> None:
    left: Any = LeftOpen()

    async def main() -> None:
        tidying = asyncio.create_task(
            end_what_is_left_open(left, left, left, [TP("notifications", 0)], {0: set()})
        )
        await asyncio.sleep(86_400)
        tidying.cancel()

    run_virtually(main())
    assert left.looks < 24 * 60 + 20


async def test_a_takeover_that_is_begun_again_stops_what_the_first_one_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tidying: list[asyncio.Task[Any]] = []

    async def tidy(*_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        tidying.append(task)
        await asyncio.sleep(60)

    async def nothing(*_: object) -> dict[TP, int]:
        return {}

    async def failing(*_: object) -> dict[TP, int]:
        await asyncio.sleep(0.01)
        raise TimeoutError

    monkeypatch.setattr(Takeover, "connect", nothing)
    monkeypatch.setattr(LogEnds, "reached", failing)
    for name, instead in (
        ("settle", nothing), ("end_what_is_left_open", tidy)
    ):  # fmt: skip
        monkeypatch.setattr(takeover, name, instead)
    config = EngineConfig(
        group="group", worker_id="w1", changelog="changelog", output_topics=(),
        queues=frozenset(), session_timeout_s=6.0, client_options={},
    )  # fmt: skip
    taking_over = Takeover(config, lambda error: None)
    share = Share(frozenset(), Membership("group", 1, "member"))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await taking_over.attempt(share, {}, seek=nothing, on_progress=lambda: None)
    assert [task.cancelled() for task in tidying] == [True, False]
    await taking_over.stop_tidying()
    assert all(task.cancelled() for task in tidying)

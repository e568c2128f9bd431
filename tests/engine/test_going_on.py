"""What was committed is never begun anew by itself, and what is missing is said: a real Kafka."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from app.kafka.topic_setup import create_topics
from streams.engine.outbox import Finish, OutboxRecord
from streams.engine.positions import MissingRecordsError
from streams.engine.state import Table
from streams.engine.takeover import folded_before, was_here
from streams.engine.types import TP, Chunk, Crash, Source
from streams.kafka.log_reader import ChangelogCutError, LogReader
from streams.kafka.producer import TransactionalProducer
from streams.kafka.protocol import CommittedOffset
from tests import kafka_admin
from tests.engine.inprocess import InProcess, eventually, ignore
from tests.installation import Installation, Published

COUNTS = Table(b"x", int)


class Waiting:
    """An outbox that finishes what it is told to."""

    max_pending = 100

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.begun: dict[int, str] = {}
        self.finish: Finish

    def bind(self, finish: Finish, crash: Crash) -> None:
        self.finish = finish

    def on_assigned(self, partition: int) -> None:
        self.begun = {}

    def take(self, partition: int, records: Sequence[OutboxRecord]) -> None:
        self.begun |= {record.offset: record.value.decode() for record in records}

    def pending(self, partition: int) -> int:
        return 0

    async def on_revoked(self, partitions: Collection[int]) -> None:
        pass


class Counting(InProcess):
    """Counts calls in its state, and remembers which it folded in this life."""

    def __init__(self, installation: Installation, directory: Path, **config: Any) -> None:
        self.folded: list[str] = []
        super().__init__(installation, "w", directory, self._fold, **config)
        self.outbox = Waiting(installation.topics.sms_outbox)
        self.engine.add_outbox(self.outbox)
        self.engine.add_source(Source(installation.topics.line_segments, ignore, order=3))

    def _fold(self, polled: Chunk) -> None:
        for record in polled.records:
            self.folded.append((record.value or b"").decode())
            count = (polled.state.get(COUNTS, b"calls") or 0) + 1
            polled.state.put(COUNTS, b"calls", count)

    def count(self) -> int:
        return self.engine.states[0].peek(COUNTS, b"calls") or 0

    async def until_folded(self, *calls: str) -> None:
        await eventually(lambda: self.folded == list(calls), f"{calls} folded")


@pytest.fixture
async def small(kafka: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """An installation of one partition."""
    made = Installation(kafka, redis_url, tmp_path)
    made.variables["DIALWATCH_PARTITIONS"] = "1"
    await create_topics(made.settings())
    yield made
    await made.delete_topics()


@asynccontextmanager
async def life(
    installation: Installation, tmp_path: Path, **config: Any
) -> AsyncIterator[Counting]:
    """One worker's, from its start to its stop."""
    worker = Counting(installation, tmp_path, **config)
    try:
        await worker.start()
        await eventually(
            lambda: bool(worker.crashes or (worker.engine.assigned and worker.engine.is_ready)),
            "ready",
        )
        yield worker
    finally:
        await worker.stop()


def calls(*values: str) -> list[Published]:
    return [Published("call-records", "acme", value.encode(), 0) for value in values]


async def folded_and_stopped(installation: Installation, tmp_path: Path, *values: str) -> None:
    await installation.publish([Published("accounts", "acme", {"account_id": "acme"}, 0)])
    await installation.publish(calls(*values))
    async with life(installation, tmp_path) as worker:
        await worker.until_folded(*values)


async def refusal(installation: Installation, tmp_path: Path) -> str:
    """Start; return the one line that it ends with."""
    async with life(installation, tmp_path, log_patience_s=1.0) as worker:
        await eventually(lambda: bool(worker.crashes), "stopped")
        [error] = worker.crashes
        assert isinstance(error, MissingRecordsError | ChangelogCutError)
        assert "\n" not in str(error)
        return str(error)


async def until_offset(small: Installation, topic: str, offset: int) -> None:
    """Wait until the group's offset in partition 0 is this one: a commit is answered before Kafka
    applies it."""

    async def is_so() -> bool:
        return await kafka_admin.offsets(small, topic) == {0: offset}

    await eventually(is_so, f"offset {offset} of {topic}")


async def publish_in_transactions(installation: Installation, *values: str) -> None:
    """Each record with a marker behind it; an empty one is aborted."""
    producer = AIOKafkaProducer(
        bootstrap_servers=installation.brokers, transactional_id=f"{installation.name}-dialer"
    )
    await producer.start()
    try:
        for value in values:
            await producer.begin_transaction()
            await producer.send_and_wait(
                installation.topics.calls, value.encode(), key=b"acme", partition=0
            )
            await (producer.commit_transaction() if value else producer.abort_transaction())
    finally:
        await producer.stop()


@pytest.mark.broker
async def test_expired_offsets_change_nothing(small: Installation, tmp_path: Path) -> None:
    await folded_and_stopped(small, tmp_path, "a", "b")
    await kafka_admin.delete_group(small)
    await small.publish(calls("c"))
    async with life(small, tmp_path) as worker:
        await worker.until_folded("c")
        assert worker.count() == 3
    # And the group has its offsets again: who looks for its lag finds none.
    await until_offset(small, small.topics.calls, 3)
    await until_offset(small, small.topics.accounts, 1)


@pytest.mark.broker
async def test_records_deleted_after_they_were_read_change_nothing(
    small: Installation, tmp_path: Path
) -> None:
    # The last marker, and what was aborted, is passed too.
    await publish_in_transactions(small, "a", "b", "", "")
    async with life(small, tmp_path, tidy_every_s=0.2) as worker:
        await worker.until_folded("a", "b")
        await until_offset(small, small.topics.calls, 8)
    await kafka_admin.delete_before(small, {TP(small.topics.calls, 0): -1})
    assert await kafka_admin.bounds(small, small.topics.calls) == (8, 8)
    await small.publish(calls("c"))
    async with life(small, tmp_path) as worker:
        await worker.until_folded("c")


@pytest.mark.broker
async def test_the_marker_behind_the_last_record_is_committed_with_it(
    small: Installation, tmp_path: Path
) -> None:
    await publish_in_transactions(small, "a")
    async with life(small, tmp_path) as worker:
        await worker.until_folded("a")
    await until_offset(small, small.topics.calls, 2)


@pytest.mark.broker
async def test_records_deleted_before_they_were_read_stop_it(
    small: Installation, tmp_path: Path
) -> None:
    await folded_and_stopped(small, tmp_path, "a")
    await small.publish(calls("b", "c", "d"))
    tp = TP(small.topics.calls, 0)
    await kafka_admin.delete_before(small, {tp: 3})
    said = await refusal(small, tmp_path)
    assert f"{tp.topic}-0: group goes on at offset 1, but the log holds 3 to 4" in said
    assert f"--topic {tp.topic}:0 --to-earliest" in said
    await kafka_admin.reset_offsets(small, {tp: 3})
    async with life(small, tmp_path) as worker:
        await worker.until_folded("d")
        assert worker.count() == 2


@pytest.mark.broker
async def test_what_was_deleted_of_a_topic_that_was_never_read_is_missing_too(
    small: Installation, tmp_path: Path
) -> None:
    async with life(small, tmp_path):
        pass  # nothing came, and it is known from where on
    await small.publish(calls("a", "b"))
    await kafka_admin.delete_before(small, {TP(small.topics.calls, 0): 1})
    assert "deleted before they were read" in await refusal(small, tmp_path)


@pytest.mark.broker
async def test_a_new_group_begins_where_the_topics_begin(
    small: Installation, tmp_path: Path
) -> None:
    await small.publish(calls("a", "b"))
    await kafka_admin.delete_before(small, {TP(small.topics.calls, 0): 1})
    async with life(small, tmp_path) as worker:
        await worker.until_folded("b")


@pytest.mark.broker
@pytest.mark.parametrize("again", [["c"], ["c", "d", "e"]])  # a shorter log, and a longer one
async def test_a_topic_made_anew_stops_it_until_somebody_decides(
    small: Installation, tmp_path: Path, again: Sequence[str]
) -> None:
    await folded_and_stopped(small, tmp_path, "a", "b")
    await kafka_admin.make_anew(small, small.topics.calls)
    await small.publish(calls(*again))
    said = await refusal(small, tmp_path)
    assert f"{small.topics.calls} was deleted or made anew" in said
    assert f"--topic {small.topics.calls} --to-earliest" in said

    await kafka_admin.reset_offsets(small, {TP(small.topics.calls, 0): 0})
    async with life(small, tmp_path) as worker:
        await worker.until_folded(*again)
    async with life(small, tmp_path) as worker:  # decided once
        await small.publish(calls("z"))
        await worker.until_folded("z")


@pytest.mark.broker
async def test_offsets_set_back_by_hand_are_read_again(small: Installation, tmp_path: Path) -> None:
    await folded_and_stopped(small, tmp_path, "a", "b", "c")
    await kafka_admin.reset_offsets(small, {TP(small.topics.calls, 0): 1})
    async with life(small, tmp_path) as worker:
        await worker.until_folded("b", "c")
        assert worker.count() == 5


@pytest.mark.broker
@pytest.mark.parametrize("how", ["made anew", "deleted"])
async def test_a_state_that_is_gone_stops_it_until_somebody_decides(
    small: Installation, tmp_path: Path, how: str
) -> None:
    await folded_and_stopped(small, tmp_path, "a", "b")
    if how == "made anew":
        await kafka_admin.make_anew(small, small.topics.changelog)
    else:
        await kafka_admin.delete_topic(small, small.topics.changelog)
        await create_topics(small.settings())  # as a start does
    said = await refusal(small, tmp_path)
    assert f"{small.topics.changelog} doesn't hold the state of partitions 0" in said
    assert "--all-topics --to-current" in said
    assert f"--topic {small.topics.accounts} --to-earliest" in said

    of = small.topics
    every = [of.calls, of.accounts, of.line_segments, of.sms_outbox]
    await kafka_admin.reset_to_current(small, every)
    async with life(small, tmp_path) as worker:
        await small.publish(calls("c"))
        await worker.until_folded("c")
        assert worker.count() == 1


@pytest.mark.broker
async def test_a_state_that_was_emptied_stops_it(small: Installation, tmp_path: Path) -> None:
    await folded_and_stopped(small, tmp_path, "a")
    await small.configure(small.topics.changelog, {"cleanup.policy": "compact,delete"})
    await kafka_admin.delete_before(small, {TP(small.topics.changelog, 0): -1})
    said = await refusal(small, tmp_path)
    assert "a part of what is remembered was deleted" in said
    assert f"kafka-topics --delete --topic {small.topics.changelog}" in said
    await kafka_admin.make_anew(small, small.topics.changelog)  # as the line says
    assert "--all-topics --to-current" in await refusal(small, tmp_path)


async def queue(installation: Installation, topic: str, *values: str, partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers)
    await producer.start()
    for value in values:
        await producer.send_and_wait(topic, value.encode(), key=b"acme", partition=partition)
    await producer.stop()


@pytest.fixture
async def double(kafka: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """An installation of two partitions."""
    made = Installation(kafka, redis_url, tmp_path)
    made.variables["DIALWATCH_PARTITIONS"] = "2"
    await create_topics(made.settings())
    yield made
    await made.delete_topics()


@pytest.mark.broker
async def test_one_partitions_state_that_is_gone_with_the_offsets_is_not_begun_anew(
    double: Installation, tmp_path: Path
) -> None:
    of = double.topics
    each = [Published("call-records", "acme", b"a", number) for number in (0, 1)]
    await double.publish(each)
    async with life(double, tmp_path) as worker:
        await worker.until_folded("a", "a")
    kept = [one for one in await double.read_named(of.changelog) if one.partition == 0]
    await kafka_admin.make_anew(double, of.changelog)
    producer = AIOKafkaProducer(bootstrap_servers=double.brokers)
    await producer.start()
    for one in kept:
        await producer.send_and_wait(of.changelog, one.value, key=one.key, partition=0)
    await producer.stop()
    await kafka_admin.delete_group(double)
    said = await refusal(double, tmp_path)
    assert f"{of.changelog} is empty in partitions 1 and group {double.name} has no offsets" in said
    assert f"--topic {of.accounts}:1 --topic {of.calls}:1 --to-latest" in said
    assert f"--topic {of.accounts}:1 --to-earliest" in said

    # As the line says; and what the other partition knows is kept.
    await kafka_admin.reset_offsets(double, {TP(of.calls, 1): 1, TP(of.accounts, 1): 0})
    await double.publish(each)
    async with life(double, tmp_path) as worker:
        await worker.until_folded("a", "a")
        assert [worker.engine.states[n].peek(COUNTS, b"calls") for n in (0, 1)] == [2, 1]


@pytest.mark.broker
async def test_a_group_whose_offsets_and_state_are_gone_together_does_not_begin_anew(
    small: Installation, tmp_path: Path
) -> None:
    of = small.topics
    await folded_and_stopped(small, tmp_path, "a", "b")
    await queue(small, of.line_segments, "1")
    await kafka_admin.make_anew(small, of.changelog)
    await kafka_admin.delete_group(small)
    said = await refusal(small, tmp_path)
    assert f"{of.changelog} is empty and group {small.name} has no offsets" in said
    assert f"--topic {of.accounts} --topic {of.calls} --to-latest" in said
    assert f"--topic {of.accounts} --to-earliest" in said
    assert of.line_segments not in said  # a queue holds what isn't done with

    # As the line says.
    await kafka_admin.reset_offsets(small, {TP(of.calls, 0): 2, TP(of.accounts, 0): 0})
    async with life(small, tmp_path) as worker:
        await small.publish(calls("c"))
        await worker.until_folded("c")
    async with life(small, tmp_path) as worker:  # decided once
        await small.publish(calls("d"))
        await worker.until_folded("d")


class Cluster:
    """Answers what `was_here` asks of a producer and of a reader."""

    def __init__(
        self, ends: dict[TP, int], committed: CommittedOffset, begins: Mapping[TP, int] = {}
    ) -> None:
        self._ends = ends
        self._begins = begins
        self._committed = committed

    async def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        return {tp: self._ends[tp] for tp in tps}

    async def beginnings(self, tps: Collection[TP]) -> dict[TP, int]:
        return {tp: self._begins.get(tp, 0) for tp in tps}

    async def committed_offsets(self, group: str, tps: list[TP], **_: Any) -> dict[TP, Any]:
        return {tps[0]: CommittedOffset(-1, "", True), tps[1]: self._committed}


@pytest.mark.parametrize(
    ("end", "committed", "is_so"),
    [
        (0, CommittedOffset(-1, "", True), False),  # a new installation
        (7, CommittedOffset(-1, "", True), True),
        (7, CommittedOffset(3, "", True), True),  # somebody decided that of another partition
        # Another worker of a new one claimed its share a moment ago, or is about to.
        (7, CommittedOffset(0, "g-w2", True), False),
        (7, CommittedOffset(-1, "", False), False),
    ],
)
async def test_queues_that_were_written_tell_of_a_group_without_any_offset(
    end: int, committed: CommittedOffset, is_so: bool
) -> None:
    queues, claimed = [TP("segments", 0), TP("segments", 1)], [TP("accounts", 0), TP("accounts", 1)]
    cluster: Any = Cluster({queues[0]: 0, queues[1]: end}, committed)
    assert await was_here(cluster, cluster, "g", queues=queues, claimed=claimed) == is_so


@pytest.mark.parametrize(
    ("topic", "begin", "end", "is_so"),
    [
        ("outbox", 0, 0, False),
        ("outbox", 0, 7, True),
        ("segments", 0, 0, False),
        # Others write them, also before their number has its first owner; but none deletes them.
        ("segments", 0, 7, False),
        ("segments", 7, 7, True),
    ],
)
async def test_a_partition_number_was_folded_where_its_owner_left_a_trace(
    topic: str, begin: int, end: int, is_so: bool
) -> None:
    queues = [TP("outbox", 1), TP("segments", 1)]
    ends, begins = {**dict.fromkeys(queues, 0), TP(topic, 1): end}, {TP(topic, 1): begin}
    cluster: Any = Cluster(ends, CommittedOffset(-1, "", True), begins)
    assert await folded_before(cluster, queues, ["outbox"]) == ({1} if is_so else set())


@pytest.mark.broker
async def test_queues_are_emptied_of_what_the_group_is_done_with(
    small: Installation, tmp_path: Path
) -> None:
    topics = small.topics
    async with life(small, tmp_path, tidy_every_s=0.2) as worker:
        await queue(small, topics.line_segments, "1", "2", "3")
        await queue(small, topics.sms_outbox, "a", "b", "c")
        await small.publish(calls("x"))
        await eventually(lambda: len(worker.outbox.begun) == 3, "begun")
        for offset in (0, 2):
            worker.outbox.finish(0, offset, [])

        async def is_emptied() -> bool:
            segments = await kafka_admin.bounds(small, topics.line_segments)
            outbox = await kafka_admin.bounds(small, topics.sms_outbox)
            return (segments, outbox) == ((3, 3), (1, 3))  # b waits, and c behind it

        await eventually(is_emptied, "emptied")
        assert await kafka_admin.bounds(small, topics.calls) == (0, 1)  # the dialer's
    async with life(small, tmp_path) as worker:
        await eventually(lambda: worker.outbox.begun == {1: "b"}, "b is begun again")


@pytest.mark.broker
async def test_an_outbox_made_anew_with_something_unfinished_skips_nothing_silently(
    small: Installation, tmp_path: Path
) -> None:
    outbox = small.topics.sms_outbox
    async with life(small, tmp_path) as worker:
        await queue(small, outbox, "a", "b", "c")
        await eventually(lambda: len(worker.outbox.begun) == 3, "begun")
        worker.outbox.finish(0, 1, [])
    await kafka_admin.make_anew(small, outbox)
    await queue(small, outbox, "d", "e", "f", "g")
    said = await refusal(small, tmp_path)
    assert f"{outbox} was deleted or made anew" in said
    await kafka_admin.reset_offsets(small, {TP(outbox, 0): 0})
    async with life(small, tmp_path) as worker:
        await eventually(lambda: [*worker.outbox.begun.values()] == list("defg"), "all are begun")


@pytest.mark.broker
async def test_an_unfinished_record_that_retention_took_is_missing_and_no_marker(
    small: Installation, tmp_path: Path
) -> None:
    outbox = small.topics.sms_outbox
    async with life(small, tmp_path) as worker:
        await queue(small, outbox, "a", "b", "c")
        await eventually(lambda: len(worker.outbox.begun) == 3, "begun")
        worker.outbox.finish(0, 1, [])  # and with it is written down that the first is not
    await kafka_admin.delete_before(small, {TP(outbox, 0): 1})
    said = await refusal(small, tmp_path)
    assert f"{outbox}-0: group goes on at offset 0, but the log holds 1 to 3" in said
    assert f"--topic {outbox}:0 --to-earliest" in said
    await kafka_admin.reset_offsets(small, {TP(outbox, 0): 1})  # as the line says
    async with life(small, tmp_path) as worker:
        await eventually(lambda: worker.outbox.begun == {2: "c"}, "c is begun again")


@pytest.mark.broker
async def test_a_changelog_end_that_is_not_visible_yet_is_waited_for(
    small: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The marker of the last transaction: the broker may show the end before it for a moment.
    looked = []

    async def late(reader: LogReader, tps: Iterable[TP]) -> dict[TP, int]:
        found = await ends(reader, tps)
        looked.append(1)
        return {
            tp: end - (tp.topic == small.topics.changelog and len(looked) <= 5)
            for tp, end in found.items()
        }

    async def failing_once(producer: TransactionalProducer, *of: Any) -> Any:
        monkeypatch.setattr(TransactionalProducer, "commit", commit)
        raise TimeoutError

    async with life(small, tmp_path) as worker:
        await small.publish(calls("a"))
        await worker.until_folded("a")
        await eventually(lambda: worker.engine.states[0].position > 0, "committed")
        ends, commit = LogReader.ends, TransactionalProducer.commit
        monkeypatch.setattr(LogReader, "ends", late)
        monkeypatch.setattr(TransactionalProducer, "commit", failing_once)
        await small.publish(calls("b"))  # the same partitions are taken over again
        await eventually(lambda: len(looked) > 5 and worker.engine.is_ready, "taken over again")
        await eventually(lambda: worker.count() == 2, "a and b are counted once")
        assert worker.crashes == []


@pytest.mark.broker
@pytest.mark.parametrize("name", ["calls", "changelog"])
async def test_a_running_worker_ends_when_a_topic_is_made_anew_under_it(
    small: Installation, tmp_path: Path, name: str
) -> None:
    topic = getattr(small.topics, name)
    await small.publish(calls("a"))
    async with life(small, tmp_path, tidy_every_s=0.2) as worker:
        await worker.until_folded("a")
        await kafka_admin.make_anew(small, topic)
        # A commit may find it first; then a takeover waits a minute for the log's end.
        await eventually(lambda: bool(worker.crashes), "stopped", within_s=120.0)
        assert isinstance(worker.crashes[0], MissingRecordsError | ChangelogCutError)
        assert topic in str(worker.crashes[0])
    assert topic in await refusal(small, tmp_path)

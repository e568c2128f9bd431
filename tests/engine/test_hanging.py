"""Transactions that hang are ended as Kafka had ended them, or the worker says why it can't."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalGenerationError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
)

from streams.engine.hanging import (
    HangingTransactionError,
    HangingTransactions,
    Verdict,
    judge,
    judge_by_spans,
)
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader
from streams.kafka.producer import TransactionalProducer
from streams.kafka.protocol import Membership
from streams.kafka.rights import principal_of
from streams.kafka.transactions import OpenTransaction, Span, TransactionState
from tests.engine.inprocess import eventually
from tests.installation import Installation
from tests.strict_kafka import CLUSTER, USER, StrictKafka, Written, leave_hanging, write_late

LATE = b"late"
LONG_AGO_MS = 1_700_000_000_000


@pytest.fixture
async def installation(
    strict: StrictKafka, redis_url: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    made = Installation(strict.bootstrap_servers, redis_url, tmp_path)
    made.variables["DIALWATCH_PARTITIONS"] = "1"
    await made.create_topics()
    yield made
    for worker in made.workers:
        worker.kill()


OWN_ID = "0a0b0c0d0e0f"


@contextlib.asynccontextmanager
async def _looking(
    installation: Installation, **options: str
) -> AsyncIterator[HangingTransactions]:
    """What a worker that starts looks with; `options` as aiokafka names them."""
    options = {"bootstrap_servers": installation.brokers} | options
    topics, reader = installation.topics, LogReader(options)
    try:
        await reader.open([topics.recharges, topics.changelog, *topics.outputs()])
        hanging = HangingTransactions(
            reader, installation.name, topics.changelog, topics.outputs(), principal_of(options)
        )

        async def has_leaders() -> bool:
            try:
                await hanging.find(hanging.written())
            except NotLeaderForPartitionError:  # a topic that was just created
                return False
            return True

        await eventually(has_leaders, "all partitions have leaders")
        yield hanging
    finally:
        await reader.close()


async def _leave_hanging(
    installation: Installation,
    topic: str,
    *,
    is_commit: bool,
    owner: str | None = None,
    written_before_ms: int = 0,
    is_forgotten: bool = False,
) -> str:
    """Let one record hang; return the transactional id. `is_forgotten`: its coordinator has begun
    anew with the id, and how the transaction ended isn't known any more."""
    name, now = owner or f"{installation.name}-{OWN_ID}", int(time.time() * 1000)
    deliveries = TP(installation.topics.deliveries, 0)
    await leave_hanging(
        installation.brokers,
        name,
        is_commit=is_commit,
        written=[Written(deliveries, b"acme", b"{}", now - written_before_ms)],
        hanging=[Written(TP(topic, 0), b"acme", LATE, now)],
    )
    if is_forgotten:
        producer = AIOKafkaProducer(bootstrap_servers=installation.brokers, transactional_id=name)
        await producer.start()
        await producer.stop()
    return name


async def _is_late_read(installation: Installation, topic: str) -> bool:
    """Is what hung committed? Waits for as long as it hangs."""
    reader, tps = LogReader({"bootstrap_servers": installation.brokers}), [TP(topic, 0)]

    async def is_ended() -> bool:
        stable = await reader.stable_ends(tps)  # before the ends, which only grow
        return stable == await reader.ends(tps)

    try:
        await reader.open([topic])
        await eventually(is_ended, f"nothing hangs in {topic}")
    finally:
        await reader.close()
    return LATE in [one.value for one in await installation.read_named(topic)]


@pytest.mark.broker
@pytest.mark.parametrize("is_commit", [True, False])
@pytest.mark.parametrize("is_forgotten", [True, False])
async def test_what_hangs_is_ended_as_its_coordinator_or_another_partition_says(
    is_commit: bool, is_forgotten: bool, installation: Installation
) -> None:
    topic = installation.topics.inbox_messages
    await _leave_hanging(installation, topic, is_commit=is_commit, is_forgotten=is_forgotten)
    async with _looking(installation) as hanging:
        assert await hanging.mend()
        assert not await hanging.mend()
    assert await _is_late_read(installation, topic) is is_commit


@pytest.mark.broker
async def test_a_worker_ends_what_hangs_before_it_begins_anew(installation: Installation) -> None:
    own = installation.worker(is_started=False)
    (own.directory / "data").mkdir(parents=True)
    (own.directory / "data" / "worker-id").write_text(OWN_ID)
    changelog = installation.topics.changelog
    await _leave_hanging(installation, changelog, is_commit=False)
    own.start()
    assert "hangs in" in own.log.read_text()
    assert not await _is_late_read(installation, changelog)


@pytest.mark.broker
async def test_what_a_lost_worker_left_hanging_is_ended_by_who_takes_over(
    installation: Installation,
) -> None:
    changelog = installation.topics.changelog
    await _leave_hanging(installation, changelog, is_commit=False)
    installation.worker()
    assert not await _is_late_read(installation, changelog)


@pytest.mark.broker
async def test_where_nothing_tells_the_worker_stops_and_leaves_it_as_it_is(
    installation: Installation,
) -> None:
    changelog = installation.topics.changelog
    name = await _leave_hanging(
        installation, changelog, is_commit=True, is_forgotten=True, written_before_ms=1000
    )
    worker = installation.worker(is_started=False)
    worker.launch()
    assert worker.wait_exit() == 1
    last = worker.log.read_text().strip().splitlines()[-1]
    assert f"a transaction of {name} hangs in {changelog}-0 from offset" in last
    assert "nothing tells whether" in last
    assert f"abort --topic {changelog} --partition 0 --start-offset" in last
    async with _looking(installation) as hanging:
        assert await hanging.find([TP(changelog, 0)])


@pytest.mark.broker
@pytest.mark.parametrize("is_commit", [True, False])
async def test_without_the_right_to_end_it_its_own_coordinator_does(
    is_commit: bool, installation: Installation, strict: StrictKafka
) -> None:
    changelog = installation.topics.changelog
    await _leave_hanging(installation, changelog, is_commit=is_commit)
    async with (
        strict.denied("Alter", "ClusterAction", resource="cluster", name=CLUSTER),
        _looking(installation, **strict.options()) as hanging,
    ):
        assert await hanging.mend()
    assert await _is_late_read(installation, changelog) is is_commit


@pytest.mark.broker
@pytest.mark.parametrize("is_commit", [True, False])
async def test_who_may_not_end_it_says_which_right_that_takes(
    is_commit: bool, installation: Installation, strict: StrictKafka
) -> None:
    changelog = installation.topics.changelog
    await _leave_hanging(installation, changelog, is_commit=is_commit, is_forgotten=True)
    async with (
        strict.denied("Alter", "ClusterAction", resource="cluster", name=CLUSTER),
        _looking(installation, **strict.options()) as hanging,
    ):
        with pytest.raises(HangingTransactionError) as caught:
            await hanging.mend()
    assert "needs the right Alter on the cluster" in str(caught.value)
    assert f"User:{USER}" in str(caught.value)
    # The tool can only abort.
    assert ("abort --topic" in str(caught.value)) is not is_commit


@pytest.mark.broker
async def test_another_systems_hanging_transaction_in_an_input_is_told_and_is_lag(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    topics = installation.topics
    await _leave_hanging(installation, topics.recharges, is_commit=False, owner="billing-7")
    async with _looking(installation) as hanging:
        assert not await hanging.mend()
        for _ in range(2):
            await hanging.look_at([TP(topics.recharges, 0)])
    (told,) = [one.message for one in caplog.records if "billing-7" in one.message]
    assert f"hangs in {topics.recharges}-0 from offset 0" in told
    assert f"abort --topic {topics.recharges} --partition 0 --start-offset 0" in told

    worker = installation.worker()
    gauge = f'dialwatch_lag_records{{partition="0",topic="{topics.recharges}"}} 1.0'

    async def is_told() -> bool:
        with contextlib.suppress(OSError):  # it takes its time to answer, or to listen
            return gauge in (await asyncio.to_thread(worker.get, "/metrics"))[1]
        return False

    await eventually(is_told, gauge)


@pytest.mark.broker
async def test_what_hangs_of_a_live_workers_last_transaction_is_not_aborted_with_its_next(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = (installation.topics.inbox_messages, 0)
    producer = TransactionalProducer(
        f"{installation.name}-{OWN_ID}", {"bootstrap_servers": installation.brokers}
    )
    membership = Membership(installation.name, 1, "nobody")

    async def without_group(*_: object) -> None:
        pass

    async def left_out(*_: object) -> None:
        raise IllegalGenerationError

    monkeypatch.setattr(producer, "_send_offsets", without_group)
    try:
        await producer.open()
        await producer.commit({inbox: [(b"acme", b"in time", [])]}, {}, membership)
        await write_late(producer._open_producer, Written(TP(*inbox), b"acme", LATE))
        _away_once(producer, monkeypatch)
        monkeypatch.setattr(producer, "_send_offsets", left_out)
        with pytest.raises(IllegalGenerationError):
            await producer.commit({inbox: [(b"acme", b"next", [])]}, {}, membership)
        await producer.end()
        values = [one.value for one in await installation.read("inbox-messages")]
        assert values == [b"in time", LATE]
    finally:
        await producer.close()


def _away_once(producer: TransactionalProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator is away when it is asked next."""
    ask = producer._ask_coordinator

    async def asked(*question: Any) -> Any:
        monkeypatch.setattr(producer, "_ask_coordinator", ask)
        raise NodeNotReadyError

    monkeypatch.setattr(producer, "_ask_coordinator", asked)


def _open(epoch: int = 3, partition: int = 0) -> OpenTransaction:
    return OpenTransaction(TP("changelog", partition), 7, epoch, 0, 100, LONG_AGO_MS)


def _known(state: str, epoch: int = 3, producer_id: int = 7) -> TransactionState:
    tps = frozenset({TP("changelog", 0)}) if state in {"Ongoing", "PrepareCommit"} else frozenset()
    return TransactionState("group-1", state, producer_id, epoch, tps)


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (_known("Ongoing"), Verdict.OPEN),
        (_known("PrepareCommit"), Verdict.OPEN),
        (_known("CompleteCommit"), Verdict.COMMITTED),
        (_known("CompleteAbort"), Verdict.ABORTED),
        # Timed out: the epoch is raised, then it is aborted.
        (_known("CompleteAbort", epoch=4), Verdict.ABORTED),
        # InitProducerId came first, and then another transaction was committed.
        (_known("CompleteCommit", epoch=4), Verdict.UNKNOWN),
        (_known("Empty", epoch=4), Verdict.UNKNOWN),
        (_known("CompleteCommit", producer_id=8), Verdict.UNKNOWN),
        (None, Verdict.UNKNOWN),
    ],
)
def test_how_an_open_transaction_stands(known: TransactionState | None, verdict: Verdict) -> None:
    assert judge(_open(), known) is verdict


def test_a_later_transaction_elsewhere_says_nothing_of_what_hangs_here() -> None:
    assert judge(_open(partition=1), _known("Ongoing")) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("spans", "verdict"),
    [
        ([], Verdict.UNKNOWN),
        ([Span(3, 1000, 3, True)], Verdict.COMMITTED),
        ([Span(3, 1000, 3, False)], Verdict.ABORTED),
        ([Span(3, 999, 3, True)], Verdict.UNKNOWN),  # may be the one before
        ([Span(3, 999, 4, False)], Verdict.ABORTED),  # fenced: it was the last one
        ([Span(3, 1000, 3, True), Span(4, 2000, 4, False)], Verdict.COMMITTED),
        ([Span(2, 1000, 2, True)], Verdict.UNKNOWN),
    ],
)
def test_what_other_partitions_tell(spans: list[Span], verdict: Verdict) -> None:
    assert judge_by_spans(3, 1000, spans) is verdict

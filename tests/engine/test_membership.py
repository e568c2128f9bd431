"""A worker that is well stays in its group whether it reads or not; one that is out says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from app.kafka.topic_setup import create_topics
from app.web.view import WorkerView
from streams.engine.consumer import OutOfGroupError, _ConsumerThread
from streams.kafka.log_reader import LogReader
from tests.engine.inprocess import InProcess, eventually
from tests.installation import Installation

SHORT_POLL_SECONDS = 4.0
Made = Callable[..., InProcess]


@pytest.fixture
async def small(kafka: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """An installation of one partition: a second worker is a spare."""
    made = Installation(kafka, redis_url, tmp_path)
    made.variables["DIALWATCH_PARTITIONS"] = "1"
    await create_topics(made.settings())
    yield made
    await made.delete_topics()


@pytest.fixture
async def worker(small: Installation, tmp_path: Path) -> AsyncIterator[Made]:
    async with AsyncExitStack() as stack:

        def make(name: str, **config: Any) -> InProcess:
            made = InProcess(small, name, tmp_path, **config)
            stack.push_async_callback(made.stop)
            return made

        yield make


async def generation(small: Installation) -> tuple[str, int]:
    """Return the state of the group, and how many members it has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=small.brokers)
    try:
        await admin.start()
        (answer,) = await admin.describe_consumer_groups([small.name])
        [group] = answer.to_object()["groups"]
        return group["state"], len(group["members"])
    finally:
        await admin.close()


@pytest.mark.broker
async def test_a_spare_worker_stays_and_takes_over(small: Installation, worker: Made) -> None:
    busy = worker("busy", max_poll_interval_s=SHORT_POLL_SECONDS)
    await busy.start()
    await eventually(lambda: bool(busy.engine.assigned) and busy.engine.is_ready, "assigned")
    spare = worker("spare", max_poll_interval_s=SHORT_POLL_SECONDS)
    await spare.start()
    await eventually(
        lambda: busy.engine.is_ready and spare.engine.is_ready, "both have their share"
    )
    idle = min(busy, spare, key=lambda one: len(one.engine.assigned))
    other = busy if idle is spare else spare
    assert (len(idle.engine.assigned), len(other.engine.assigned)) == (0, 2)
    membership = idle.engine.membership

    await asyncio.sleep(2 * SHORT_POLL_SECONDS)
    assert idle.engine.membership == membership  # no rebalance, nobody left
    assert await generation(small) == ("Stable", 2)
    assert idle.engine.is_ready
    consumer = idle.app._consumer
    assert consumer.loop.time() - consumer.last_poll < SHORT_POLL_SECONDS  # /health looks at it

    await other.stop()
    await eventually(lambda: len(idle.engine.assigned) == 2 and idle.engine.is_ready, "took over")


@pytest.mark.broker
async def test_a_takeover_may_take_longer_than_the_poll_interval(
    worker: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = []

    async def slowly(reader: LogReader, *args: Any) -> int:
        began.append(1)
        await asyncio.sleep(2 * SHORT_POLL_SECONDS)
        return await restore(reader, *args)

    restore = LogReader.restore
    monkeypatch.setattr(LogReader, "restore", slowly)
    slow = worker("slow", max_poll_interval_s=SHORT_POLL_SECONDS)
    await slow.start()
    await eventually(lambda: bool(slow.engine.assigned) and slow.engine.is_ready, "taken over")
    assert (len(began), slow.crashes) == (1, [])


@pytest.mark.broker
async def test_who_is_left_out_of_a_group_that_answers_says_so_and_ends(
    small: Installation,
    worker: Made,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def not_yet(thread: _ConsumerThread) -> bool:
        return False

    async def never() -> None:
        """As aiokafka has it: who fetches nothing leaves, and doesn't come back."""

    with monkeypatch.context() as patched:
        # Nobody counts as left out while both are being taken in, however long that takes.
        patched.setattr(_ConsumerThread, "does_group_answer", not_yet)
        first, second = (
            worker(name, max_poll_interval_s=SHORT_POLL_SECONDS, out_of_group_s=1.0)
            for name in ("first", "second")
        )
        await first.start()
        await second.start()
        await eventually(
            lambda: (
                first.engine.is_ready
                and second.engine.is_ready
                and {len(first.engine.assigned), len(second.engine.assigned)} == {0, 2}
            ),
            "both have their share",
        )
    idle = min(first, second, key=lambda one: len(one.engine.assigned))
    monkeypatch.setattr(idle.app._consumer._thread, "stay_member", never)
    await eventually(lambda: bool(idle.crashes), "ended")
    assert isinstance(idle.crashes[0], OutOfGroupError)
    view = WorkerView(small.settings())
    view.worker = SimpleNamespace(engine=idle.engine)  # type: ignore[assignment]
    assert "out of group" in (view.stuck() or "")  # what /health answers 503 with
    assert "though it answers: restart the worker" in caplog.text


@pytest.mark.broker
async def test_a_group_that_does_not_answer_is_waited_for(
    worker: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no(thread: _ConsumerThread) -> bool:
        return False

    monkeypatch.setattr(_ConsumerThread, "does_group_answer", no)
    waiting = worker("waiting", out_of_group_s=0.1)
    await waiting.start()
    await eventually(lambda: bool(waiting.engine.assigned) and waiting.engine.is_ready, "assigned")
    await waiting.engine.on_revoked()  # and nothing is assigned
    await asyncio.sleep(3.5)
    assert (waiting.crashes, waiting.engine.out_of_group) == ([], None)


@pytest.mark.broker
async def test_a_broker_that_goes_away_between_two_steps_of_a_start_is_waited_for(
    worker: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, tries = AIOKafkaConsumer.start, []

    async def away_at_first(consumer: AIOKafkaConsumer) -> None:
        if consumer._group_id is not None and len(tries) < 2:
            tries.append(1)
            raise KafkaConnectionError("Unable to bootstrap")
        await start(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "start", away_at_first)
    waiting = worker("waiting")
    await waiting.start()
    await eventually(lambda: bool(waiting.engine.assigned) and waiting.engine.is_ready, "assigned")
    assert (len(tries), waiting.crashes) == (2, [])
    assert [line for line in caplog.messages if "can't join the group" in line] == [
        "can't join the group yet, trying on: KafkaConnectionError('Unable to bootstrap')"
    ]


@pytest.mark.broker
async def test_a_start_that_waits_for_a_broker_ends_when_told(
    worker: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def away(consumer: AIOKafkaConsumer) -> None:
        tries.append(1)
        raise KafkaConnectionError("Unable to bootstrap")

    monkeypatch.setattr(AIOKafkaConsumer, "start", away)
    waiting = worker("waiting")
    starting = asyncio.create_task(waiting.start())
    await eventually(lambda: len(tries) > 1, "waiting")
    starting.cancel()
    async with asyncio.timeout(60.0):
        await waiting.stop()


@pytest.mark.broker
async def test_a_leader_that_knows_of_no_topic_yet_asks_again_and_shares_them_out(
    worker: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, update = AIOKafkaConsumer.start, AIOKafkaClient._metadata_update
    away: set[AIOKafkaClient] = set()

    async def note(consumer: AIOKafkaConsumer) -> None:
        await start(consumer)
        if consumer._group_id is not None:
            away.add(consumer._client)

    async def fail(client: AIOKafkaClient, *of: Any) -> bool:
        return False if client in away else bool(await update(client, *of))

    monkeypatch.setattr(AIOKafkaConsumer, "start", note)
    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", fail)
    leader = worker("leader")
    await leader.start()
    await eventually(lambda: leader.engine.membership is not None, "a member")
    assert leader.engine.assigned == set()
    away.clear()
    await eventually(lambda: bool(leader.engine.assigned) and leader.engine.is_ready, "assigned")
    assert leader.crashes == []


@pytest.mark.broker
async def test_a_leader_that_knew_of_some_topics_only_shares_out_anew(
    small: Installation, worker: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, unknown = AIOKafkaClient._metadata_update, {small.topics.calls}

    async def partly(client: AIOKafkaClient, *of: Any) -> bool:
        is_updated = bool(await update(client, *of))
        for topic in unknown:
            client.cluster._partitions.pop(topic, None)
        return is_updated

    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", partly)
    leader = worker("leader")
    await leader.start()
    await eventually(lambda: bool(leader.engine.assigned), "assigned a part")
    assert small.topics.calls not in {tp.topic for tp in leader.engine.assigned}
    unknown.clear()
    await eventually(lambda: leader.engine.is_ready, "ready")
    assert small.topics.calls in {tp.topic for tp in leader.engine.assigned}
    assert leader.crashes == []


@pytest.mark.broker
async def test_a_stop_in_a_rebalance_is_a_stop(
    worker: Made, caplog: pytest.LogCaptureFixture
) -> None:
    busy = worker("busy")
    await busy.start()
    await eventually(lambda: bool(busy.engine.assigned) and busy.engine.is_ready, "assigned")
    busy.app.rebalancing = True
    await busy.stop()
    assert "Crashed" not in caplog.text

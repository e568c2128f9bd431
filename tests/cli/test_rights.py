"""What Kafka forbids is told in one line that names right, resource and user; `doctor` tries it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError

from app.commands.doctor import Finding, _kafka
from app.errors import CommandError
from app.kafka.publisher import Publisher
from app.kafka.topic_setup import ensure_topics
from streams.engine.housekeeping import Housekeeping
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader
from tests.installation import Installation, Published
from tests.strict_kafka import USER, StrictKafka


@pytest.fixture
async def installation(
    strict: StrictKafka, redis_url: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    made = Installation(strict.bootstrap_servers, redis_url, tmp_path)
    made.variables["DIALWATCH_PARTITIONS"] = "1"
    await made.create_topics()
    made.variables |= strict.variables()
    yield made
    for worker in made.workers:
        worker.kill()


async def _found(installation: Installation) -> list[Finding]:
    return [finding async for finding in _kafka(installation.settings())]


@pytest.mark.broker
async def test_who_may_do_everything_is_told_of_nothing(installation: Installation) -> None:
    assert {finding.verdict for finding in await _found(installation)} == {"ok"}


@pytest.mark.broker
@pytest.mark.parametrize(
    ("operation", "resource", "name"),
    [
        ("Write", "topic", "{name}.notifications"),
        ("Read", "topic", "{name}.call-records"),
        ("Describe", "topic", "{name}.ticks"),
        ("Write", "topic", "{name}-state-changelog"),
        ("Read", "group", "{name}"),
        ("Write", "transactional-id", "{name}-000000000000"),
    ],
)
async def test_a_right_that_is_missing_is_named_with_its_resource_and_user(
    operation: str, resource: str, name: str, installation: Installation, strict: StrictKafka
) -> None:
    name = name.format(name=installation.name)
    async with strict.denied(operation, resource=resource, name=name):
        found = [one.text for one in await _found(installation) if one.verdict == "fail"]
        shown = f"{installation.name}-" if resource == "transactional-id" else name
        assert [f"Kafka forbids User:{USER} {operation} on {resource} {shown}" in one
                for one in found] == [True], found  # fmt: skip
        with pytest.raises(CommandError, match=f"Kafka forbids User:{USER} {operation} on"):
            await ensure_topics(installation.settings())


@pytest.mark.broker
async def test_who_may_not_create_the_topics_that_are_missing_is_told_by_doctor_too(
    strict: StrictKafka, redis_url: str, tmp_path: Path
) -> None:
    fresh = Installation(strict.bootstrap_servers, redis_url, tmp_path)
    fresh.variables |= strict.variables()
    (warned,) = await _found(fresh)
    assert "topics are missing" in warned.text
    async with (
        strict.denied("Create", resource="cluster", name="kafka-cluster"),
        strict.denied("Create", resource="topic", name="*"),
    ):
        (told,) = await _found(fresh)
        assert told.verdict == "fail"
        assert f"Kafka forbids User:{USER} Create on topic {fresh.name}" in told.text
        with pytest.raises(CommandError, match=f"Kafka forbids User:{USER} Create on topic"):
            await ensure_topics(fresh.settings())


@pytest.mark.broker
@pytest.mark.parametrize(
    ("operation", "resource", "name"),
    [
        ("Write", "topic", "{name}.notifications"),
        ("Read", "topic", "{name}.call-records"),
        ("Read", "group", "{name}"),
        ("Write", "transactional-id", "{name}-{worker}"),
    ],
)
async def test_a_right_that_is_taken_from_a_running_worker_ends_it_with_a_line(
    operation: str, resource: str, name: str, installation: Installation, strict: StrictKafka
) -> None:
    worker = installation.worker()
    worker_id = (worker.directory / "data" / "worker-id").read_text().strip()
    name = name.format(name=installation.name, worker=worker_id)
    async with strict.denied(operation, resource=resource, name=name):
        await publish_as_anybody(installation, strict)
        assert worker.wait_exit() == 1
    said = worker.log.read_text()
    shown = f"{installation.name}-" if resource == "transactional-id" else name
    last = said.strip().splitlines()[-1]
    assert f"Kafka forbids User:{USER} {operation} on {resource} {shown}" in last
    assert f"--operation {operation} --{resource} {shown}" in last
    assert "Traceback" not in said


@pytest.mark.broker
async def test_who_publishes_what_is_forbidden_says_which_right_that_takes(
    installation: Installation, strict: StrictKafka, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(installation.settings().kafka_client_options())
    topic = installation.topics.ticks
    async with strict.denied("Write", resource="topic", name=topic):
        for _ in range(2):
            with pytest.raises(TopicAuthorizationFailedError):
                await publisher.publish(topic, None, b"{}")
    await publisher.close()
    told = [line for line in caplog.messages if "Kafka forbids" in line]
    assert len(told) == 1  # not for each tick or callback
    assert f"Kafka forbids User:{USER} Write on topic {topic}: kafka-acls.sh --add" in told[0]


async def publish_as_anybody(installation: Installation, strict: StrictKafka) -> None:
    """One recharge."""
    value = {
        "recharge_id": "r1",
        "account_id": "acme",
        "amount": "1.00",
        "balance": "2.00",
        "completed_at": "2026-11-01T10:00:00+08:00",
    }
    restricted = dict(installation.variables)
    installation.variables["DIALWATCH_KAFKA_BOOTSTRAP_SERVERS"] = strict.bootstrap_servers
    await installation.publish([Published("recharges", "acme", value, 0)])
    installation.variables |= restricted


@pytest.mark.broker
async def test_a_session_that_the_brokers_dont_take_is_told(installation: Installation) -> None:
    installation.variables["DIALWATCH_SESSION_TIMEOUT_SECONDS"] = "3600"
    (told,) = [one.text for one in await _found(installation) if one.verdict == "fail"]
    assert "the brokers take sessions of 1 to 1800 s: set DIALWATCH_SESSION_TIMEOUT_SECONDS" in told
    worker = installation.worker(is_started=False)
    worker.launch()
    assert worker.wait_exit() == 1
    last = worker.log.read_text().strip().splitlines()[-1]
    assert "Kafka takes no session of 3600 s: set DIALWATCH_SESSION_TIMEOUT_SECONDS" in last


@pytest.mark.broker
async def test_a_group_of_another_programs_is_told(
    installation: Installation, strict: StrictKafka
) -> None:
    consumer = AIOKafkaConsumer(
        installation.topics.calls,
        bootstrap_servers=strict.bootstrap_servers,
        group_id=installation.name,
    )
    try:
        await consumer.start()
        with pytest.raises(CommandError, match="is another program's"):
            await ensure_topics(installation.settings())
        (told,) = [one.text for one in await _found(installation) if one.verdict == "fail"]
        assert f"group {installation.name} is another program's" in told
        assert "set DIALWATCH_GROUP" in told
    finally:
        await consumer.stop()


@pytest.mark.broker
async def test_tls_against_a_port_that_speaks_none_is_told(
    installation: Installation, strict: StrictKafka
) -> None:
    installation.variables["DIALWATCH_KAFKA_SECURITY_PROTOCOL"] = "SASL_SSL"
    (told,) = [one.text for one in await _found(installation)]
    assert "DIALWATCH_KAFKA_SECURITY_PROTOCOL" in told
    assert "TLS" in told


@pytest.mark.broker
async def test_who_may_not_delete_is_told_once_and_goes_on(
    installation: Installation, strict: StrictKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topics, options = installation.topics, installation.settings().kafka_client_options()
    queue, other = TP(topics.wechat_outbox, 0), TP(topics.sms_outbox, 0)
    queues = (queue.topic, other.topic)
    producer = AIOKafkaProducer(bootstrap_servers=strict.bootstrap_servers)
    await producer.start()
    for topic in queues * 3:
        await producer.send_and_wait(topic, b"{}", partition=0)
    await producer.stop()
    reader = LogReader(options)
    try:
        await reader.open(queues)
        async with strict.denied("Delete", resource="topic", name=queue.topic):
            keeping = Housekeeping(reader, {}, topics.changelog, queues)
            for end in (1, 2):
                await keeping.delete_done({queue: end, other: end})
            # What may be deleted elsewhere goes on.
            assert await reader.beginnings([queue, other]) == {queue: 0, other: 2}
        ours = [one for one in caplog.records if one.name == "streams.engine.housekeeping"]
        (line,) = [one.getMessage() for one in ours]
        assert line.startswith(f"may not delete what is done with from {queue.topic},")
        assert "allow this user DELETE" in line
        # With the right, the next assignment does it.
        again = Housekeeping(reader, {}, topics.changelog, queues)
        await again.delete_done({queue: 2})
        assert await reader.beginnings([queue]) == {queue: 2}
    finally:
        await reader.close()

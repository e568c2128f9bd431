"""Records that the web server publishes."""

import asyncio
import secrets

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from app.kafka import publisher as module
from app.kafka.publisher import Publisher
from tests.installation import PATIENCE_SECONDS, Installation


@pytest.mark.broker
async def test_many_at_once_share_one_producer(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(module.AIOKafkaProducer):  # type: ignore[misc]
        def __init__(self, **options: object) -> None:
            made.append(self)
            super().__init__(**options)

    monkeypatch.setattr(module, "AIOKafkaProducer", Counted)
    publisher = Publisher(installation.settings().kafka_client_options())
    topic = installation.topics.wechat_events
    values = [b'{"event":%d}' % number for number in range(20)]
    await asyncio.gather(*(publisher.publish(topic, b"openid", value) for value in values))
    await publisher.close()
    assert len(made) == 1
    assert sorted(one.value for one in await installation.read("wechat-events")) == sorted(values)


@pytest.mark.broker
async def test_after_a_record_that_kafka_refuses_the_next_ones_go_by_a_new_producer(
    installation: Installation,
) -> None:
    topic = installation.topics.wechat_events
    await installation.configure(topic, {"max.message.bytes": "2000"})
    publisher = Publisher(installation.settings().kafka_client_options())

    async def refused() -> None:
        while True:  # until the brokers know of the setting
            await publisher.publish(topic, b"openid", secrets.token_bytes(5000))

    for number in range(3):
        with pytest.raises(MessageSizeTooLargeError):
            await asyncio.wait_for(refused(), PATIENCE_SECONDS)
        await publisher.publish(topic, b"openid", b"after %d" % number)
    await publisher.close()
    values = [one.value or b"" for one in await installation.read("wechat-events")]
    assert [one for one in values if len(one) < 5000] == [b"after 0", b"after 1", b"after 2"]


async def test_a_kafka_that_takes_connections_and_says_nothing_is_waited_for_so_long_only() -> None:
    connections = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        publisher = Publisher({"bootstrap_servers": f"127.0.0.1:{port}"})
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await publisher.publish("t", b"k", b"v")
        # They wait for one connection, and nothing of theirs is left to be sent later.
        assert loop.time() - began < module.PUBLISH_SECONDS - 5
        assert len(connections) == 1
        connections[0].close()
        with pytest.raises(KafkaConnectionError):
            await publisher.publish("t", b"k", b"v")
        await publisher.close()


async def test_a_kafka_that_is_away_is_an_error_and_is_looked_for_again_the_next_time() -> None:
    publisher = Publisher({"bootstrap_servers": "127.0.0.1:1"})
    for _ in range(2):
        with pytest.raises(KafkaConnectionError):
            await publisher.publish("t", b"k", b"v")
    await publisher.close()

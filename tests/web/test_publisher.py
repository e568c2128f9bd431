"""Records that the web server publishes."""

import asyncio

import pytest

from app.kafka import publisher as module
from app.kafka.publisher import Publisher
from tests.installation import Installation


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

"""The group's own topics lose nothing by time, and don't grow for ever."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import pytest

from app.kafka.admin import open_admin
from app.kafka.topic_setup import _bring_to_order, ensure_topics
from streams.topics import Topics
from tests.engine.inprocess import eventually
from tests.installation import PATIENCE_SECONDS, Installation

KEYS = (
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "segment.bytes",
    "min.cleanable.dirty.ratio",
    "delete.retention.ms",
    "max.message.bytes",
    "compression.type",
)


async def configs(installation: Installation, topic: str) -> dict[str, str]:
    async with open_admin(installation.settings(), timeout_s=PATIENCE_SECONDS) as admin:
        return (await admin.topic_configs([topic], KEYS))[topic]


async def until(installation: Installation, topic: str, wanted: dict[str, str]) -> dict[str, str]:
    """Return a topic's settings once these are among them: a broker hears of them a bit later."""
    found: dict[str, str] = {}

    async def are_there() -> bool:
        found.update(await configs(installation, topic))
        return wanted.items() <= found.items()

    await eventually(are_there, f"{topic} has {wanted}")
    return found


@pytest.mark.broker
async def test_own_topics_are_made_so_that_time_takes_nothing(installation: Installation) -> None:
    queue = await configs(installation, installation.topics.wechat_outbox)
    assert (queue["cleanup.policy"], queue["retention.ms"], queue["retention.bytes"]) == (
        "delete",
        "-1",
        "-1",
    )
    changelog = await configs(installation, installation.topics.changelog)
    assert changelog["cleanup.policy"] == "compact"
    # Clean is at least 70 % of what is closed: 1 / 0.7 = 1.4 of what lives, and one segment.
    assert float(changelog["min.cleanable.dirty.ratio"]) == 0.3
    assert int(changelog["segment.bytes"]) == 4 << 20
    # Transactions' markers are kept so long, 81 bytes each, 20 a second.
    assert changelog["delete.retention.ms"] == "3600000"


@pytest.mark.broker
async def test_a_worker_brings_own_topics_to_order_and_leaves_the_rest(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topics = installation.topics
    # As 0.1.0 made them, with what an operator chose beside it.
    chosen = {"max.message.bytes": "8000000", "compression.type": "zstd"}
    await installation.configure(topics.sms_outbox, chosen)
    cut = {"cleanup.policy": "compact,delete", "max.message.bytes": "1000000"}
    await installation.configure(topics.changelog, cut)
    await installation.configure(topics.deliveries, {"retention.ms": "777000"})
    await until(installation, topics.sms_outbox, chosen)
    await until(installation, topics.changelog, cut)

    await ensure_topics(installation.settings())

    kept = {"retention.ms": "-1", "retention.bytes": "-1"}
    await until(installation, topics.sms_outbox, kept | chosen)
    whole = {"cleanup.policy": "compact", "max.message.bytes": str(4 << 20)}
    changelog = await until(installation, topics.changelog, whole)
    assert int(changelog["segment.bytes"]) == 4 << 20
    deliveries = await configs(installation, topics.deliveries)
    assert deliveries["retention.ms"] == "777000"  # others read it: its operator decides
    assert f"{topics.sms_outbox}: set " in caplog.text

    caplog.clear()
    await ensure_topics(installation.settings())
    assert "set " not in caplog.text


class Refusing:
    """A cluster that lets us look and change nothing."""

    async def topic_configs(
        self, names: Iterable[str], keys: Sequence[str]
    ) -> dict[str, dict[str, str]]:
        return {}

    async def set_configs(self, configs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        return dict.fromkeys(configs, "Cluster authorization failed.")


async def test_without_the_right_one_line_says_what_to_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topics = Topics("", "g", 1).internal()
    await _bring_to_order(Refusing(), topics)  # type: ignore[arg-type]
    [said] = caplog.messages
    assert "Cluster authorization failed" in said
    assert "kafka-configs --alter --topic" in said
    assert all(topic.name in said for topic in topics)

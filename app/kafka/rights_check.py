"""Checks, without changing anything, whether Kafka allows the settings' user what a worker does."""

from collections.abc import Mapping

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import GroupAuthorizationFailedError, TransactionalIdAuthorizationFailed

from app.settings import Settings, variable
from streams.kafka import rights
from streams.kafka.rights import MissingRight, principal_of
from streams.topics import Topics

ASSIGNOR = "faust"
_A_WORKER = "000000000000"


async def find_missing(client: AIOKafkaClient, settings: Settings, topics: Topics) -> list[str]:
    """Return a line for each right that a worker lacks. Raises KafkaError."""
    missing: list[MissingRight] = await rights.missing_on_topics(client, _wanted(topics))
    lines = []
    try:
        of_group, assignor = await rights.missing_on_group(client, settings.group)
        missing += of_group
        if assignor not in {"", ASSIGNOR}:
            lines.append(
                f"group {settings.group} is another program's, whose members share partitions by "
                f"{assignor}: end it, or set {variable('group')} to a name of dialwatch's own"
            )
    except GroupAuthorizationFailedError:
        missing.append(MissingRight("Read", "group", settings.group))
    own_id = f"{settings.group}-{_A_WORKER}"
    try:
        written = dict.fromkeys([topics.changelog, *topics.outputs()], 0)
        missing += await rights.missing_for_transactions(client, own_id, written)
    except TransactionalIdAuthorizationFailed:
        own = MissingRight("Write", "transactional-id", rights.transactional_ids(settings.group))
        missing.append(own)
    principal = principal_of(settings.kafka_client_options())
    return [*(right.told(principal) for right in dict.fromkeys(missing)), *lines]


def _wanted(topics: Topics) -> Mapping[str, set[int]]:
    wanted: dict[str, set[int]] = {}
    for topic in topics.contract():
        wanted.setdefault(topic.name, set()).update({rights.DESCRIBE, rights.READ})
    for topic in topics.internal():
        wanted.setdefault(topic.name, set()).update({rights.DESCRIBE, rights.READ, rights.WRITE})
    # Ticks and WeChat's events are written outside of transactions.
    for name in (*topics.outputs(), topics.ticks, topics.wechat_events):
        wanted[name].add(rights.WRITE)
    for name in (
        topics.inbox_messages,
        topics.deliveries,
        topics.dead_letters,
        topics.wechat_events,
    ):
        wanted[name].discard(rights.READ)  # a worker only writes them
    return wanted

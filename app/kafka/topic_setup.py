"""Which topics there must be, and bringing the cluster to it. Nothing is ever deleted.

`dialwatch topics create` wants exactly what the settings say, and changes no topic that stands. A
worker takes the topics as they stand, as long as they fit together: what is missing is created to
fit, and the settings of the group's own topics are brought to what keeps their records.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from app.errors import CommandError, KafkaAwayError, WrongTopicsError
from app.kafka.admin import SAY_AGAIN_SECONDS, ClusterAdmin, open_admin
from app.settings import Settings, variable
from streams.topics import Topic, Topics

log = logging.getLogger(__name__)

CREATE_TIMEOUT_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 5.0


async def create_topics(
    settings: Settings, *, timeout_s: float = CREATE_TIMEOUT_SECONDS
) -> list[Topic]:
    """Create what is missing of all topics, and return that.

    Raises WrongTopicsError, and creates nothing, when one stands with another number of
    partitions than the settings say; KafkaAwayError when Kafka is away for `timeout_s`.
    """
    wanted = [*settings.topics.contract(), *settings.topics.internal()]
    async with open_admin(settings, timeout_s=timeout_s) as admin:
        standing = await admin.partition_counts()
        wrong = wrong_counts(wanted, standing)
        if wrong:
            raise WrongTopicsError(
                f"{'; '.join(wrong)}: set {variable('partitions')} to what stands, or delete "
                "what is wrong (its records are lost) and run this again"
            )
        missing = [topic for topic in wanted if topic.name not in standing]
        await admin.create(missing, settings.replication_factor)
        await _warn_of_policies(admin, wanted)
    return missing


async def ensure_topics(settings: Settings) -> Topics:
    """Make sure that a worker can work on its topics; return them with their real partitions.

    1. Wait for Kafka for as long as it takes, saying so.
    2. The number of partitions is that of the co-partitioned topics which stand, else the
       settings'. They differ: WrongTopicsError.
    3. Internal topics that stand must have that number, else WrongTopicsError: the group's state
       was partitioned otherwise.
    4. What a worker needs and Kafka forbids: CommandError.
    5. Create what is missing with that number. Other workers may be doing the same.
    6. Set what the group's own topics need; lacking the right, say so.
    """
    now, pause_s, next_word = asyncio.get_running_loop().time, FIRST_PAUSE_SECONDS, 0.0
    while True:
        try:
            return await _ensure(settings)
        except KafkaAwayError as error:
            if now() >= next_word:
                log.warning("%s; trying on", error)
                next_word = now() + SAY_AGAIN_SECONDS
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, MOST_PAUSE_SECONDS)


async def _ensure(settings: Settings) -> Topics:
    async with open_admin(settings, timeout_s=None) as admin:
        standing = await admin.partition_counts()
        topics = replace(settings.topics, partitions=common_count(settings.topics, standing))
        if topics.partitions != settings.partitions:
            log.info(
                "the topics have %d partitions; %s=%d counts for none of them",
                topics.partitions,
                variable("partitions"),
                settings.partitions,
            )
        wanted = [*topics.contract(), *topics.internal()]
        check_internal(topics, standing)
        missing = await admin.missing_rights(settings, topics)
        if missing:
            raise CommandError(missing[0])
        await admin.create(
            [topic for topic in wanted if topic.name not in standing], settings.replication_factor
        )
        # Somebody may have created the same ones at the same moment, with other settings.
        standing = await admin.partition_counts()
        common_count(topics, standing)
        check_internal(topics, standing)
        await _bring_to_order(admin, topics.internal())
        await _warn_of_policies(admin, topics.contract())
    return topics


def wrong_counts(wanted: Iterable[Topic], standing: Mapping[str, int]) -> list[str]:
    """Return a phrase for each topic that stands with another number of partitions."""
    return [
        f"{topic.name} has {standing[topic.name]} partitions, not {topic.partitions}"
        for topic in wanted
        if standing.get(topic.name, topic.partitions) != topic.partitions
    ]


def common_count(topics: Topics, standing: Mapping[str, int]) -> int:
    """Return the number of partitions of the co-partitioned topics.

    That of those which stand, else of `topics`. Raises WrongTopicsError when they differ.
    """
    counts = {name: standing[name] for name in topics.co_partitioned() if name in standing}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise WrongTopicsError(
            f"{listed} partitions, and these must have the same number: run dialwatch topics "
            f"expand --partitions {max(counts.values())} (again, where it was cut off), or use "
            f"other topics by setting {variable('topic_prefix')}"
        )
    return next(iter(counts.values()), topics.partitions)


def check_internal(topics: Topics, standing: Mapping[str, int]) -> None:
    """Raise WrongTopicsError where an internal topic doesn't go with the co-partitioned ones."""
    wrong = wrong_counts(topics.internal(), standing)
    if wrong:
        raise WrongTopicsError(
            f"{'; '.join(wrong)} as {topics.calls} has: the state of group {topics.group} was "
            "partitioned otherwise; run dialwatch topics expand again where it was cut off; a new "
            f"name in {variable('group')} begins anew, and sends what the topics still hold again"
        )


async def _bring_to_order(admin: ClusterAdmin, internal: list[Topic]) -> None:
    """Set what internal topics need: time must take nothing from them, nor they grow for ever."""
    keys = sorted({key for topic in internal for key in topic.configs()})
    standing = await admin.topic_configs((topic.name for topic in internal), keys)
    wrong = {}
    for topic in internal:
        stands = standing.get(topic.name, {})
        needed = {
            key: value
            for key, value in topic.configs().items()
            if not _is_as_good(key, stands.get(key), value)
        }
        if needed:
            wrong[topic.name] = needed
    refused = await admin.set_configs(wrong)
    for name, needed in wrong.items():
        settings = ",".join(f"{key}={value}" for key, value in needed.items())
        if name not in refused:
            log.info("%s: set %s", name, settings)
    if refused:
        name, *rest = sorted(refused)
        settings = ",".join(f"{key}={value}" for key, value in wrong[name].items())
        others = f", and alike {', '.join(rest)}" if rest else ""
        log.warning(
            "can't set what keeps the group's own topics whole (%s), going on as they stand: "
            "kafka-configs --alter --topic %s --add-config %s%s",
            refused[name],
            name,
            settings,
            others,
        )


def _is_as_good(key: str, stands: str | None, needed: str) -> bool:
    if stands is None:
        return False
    if key == "max.message.bytes":
        return int(stands) >= int(needed)
    if key == "min.cleanable.dirty.ratio":
        return float(stands) <= float(needed)
    if key == "segment.bytes":
        return int(stands) <= int(needed)
    return stands == needed


async def _warn_of_policies(admin: ClusterAdmin, wanted: list[Topic]) -> None:
    """Say which topics forget what they must keep, or keep only the last of what they carry."""
    key = "cleanup.policy"
    standing = await admin.topic_configs((topic.name for topic in wanted), [key])
    for topic in wanted:
        right = "compact" if topic.compacted else "delete"
        policy = standing.get(topic.name, {}).get(key, right)
        if policy != right:
            log.warning(
                "%s has cleanup.policy=%s and needs %s: kafka-configs --alter --topic %s "
                "--add-config cleanup.policy=%s",
                topic.name,
                policy,
                right,
                topic.name,
                right,
            )

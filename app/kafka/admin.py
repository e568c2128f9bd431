"""The few requests that dialwatch makes to administer a Kafka cluster, with clear errors.

Answers are returned as plain values. Which topics there should be isn't known here.
"""

import asyncio
import logging
import os
import re
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    InvalidReplicationFactorError,
    KafkaError,
    NotControllerError,
    PolicyViolationError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from app.errors import CommandError, KafkaAwayError
from app.kafka.rights_check import find_missing
from app.settings import Settings, variable
from streams.engine.types import TP
from streams.kafka.protocol import AlterTopicConfigs
from streams.kafka.rights import MissingRight, principal_of
from streams.topics import Topic, Topics

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
RETRY_SECONDS = 1.0
SAY_AGAIN_SECONDS = 30.0
VISIBLE_SECONDS = 30.0
END_SECONDS = 1.0
"""How long a start that nobody waits for any more may take to end by itself."""

_BROKERS = variable("kafka_bootstrap_servers")
_AWAY = (KafkaError, OSError, TimeoutError)


@asynccontextmanager
async def open_admin(
    settings: Settings, *, timeout_s: float | None
) -> AsyncIterator["ClusterAdmin"]:
    """Connect. While Kafka is away, wait for it and log that.

    Raises KafkaAwayError after `timeout_s` seconds; None: wait for ever.
    """
    client = await _connect(settings, timeout_s)
    try:
        principal = principal_of(settings.kafka_client_options())
        yield ClusterAdmin(client, settings.kafka_bootstrap_servers, principal)
    finally:
        await client.close()


async def _connect(settings: Settings, timeout_s: float | None) -> AIOKafkaAdminClient:
    now = asyncio.get_running_loop().time
    begun = now()
    next_word = begun
    while True:
        client = AIOKafkaAdminClient(
            **settings.kafka_client_options(), request_timeout_ms=int(REQUEST_SECONDS * 1000)
        )
        with _bootstrap_complaints() as complaints:
            try:
                await _start(client)
                if next_word > begun:
                    log.info("Kafka is there, after %.0f s", now() - begun)
                return client
            except _AWAY as error:
                await client.close()
                reason = _plain(complaints[-1] if complaints else repr(error)) or "no answer"
        is_hopeless = "AuthenticationFailed" in reason  # no use in waiting
        if timeout_s is not None and (is_hopeless or now() - begun >= timeout_s):
            raise KafkaAwayError(
                f"Kafka doesn't answer at {settings.kafka_bootstrap_servers} ({reason}): "
                f"start it, or set {_BROKERS} and the security settings beside it"
                f"{_hint(settings.kafka_security_protocol, reason)}"
            )
        # A command that gives up soon logs it only at the end, except for a person at a terminal.
        if now() >= next_word and (timeout_s is None or sys.stderr.isatty()):
            log.warning(
                "Kafka doesn't answer at %s (%s); waiting for it%s",
                settings.kafka_bootstrap_servers,
                reason,
                _hint(settings.kafka_security_protocol, reason),
            )
            next_word = now() + SAY_AGAIN_SECONDS
        await asyncio.sleep(RETRY_SECONDS)


async def _start(client: AIOKafkaAdminClient) -> None:
    """Start it. Whoever is cancelled meanwhile waits a moment longer, because aiokafka would leave
    the connection open by which it is asking."""
    starting = asyncio.create_task(client.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting], timeout=END_SECONDS)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.close()
        raise


def _hint(protocol: str, reason: str) -> str:
    """Return a hint where the port may speak another protocol than ours; else an empty text."""
    if "refused" in reason or "AuthenticationFailed" in reason or "resolve" in reason:
        return ""
    if "SSL" in protocol:
        return (
            f"; where that port speaks no TLS, set {variable('kafka_security_protocol')} to "
            "PLAINTEXT or SASL_PLAINTEXT"
        )
    if "closed" in reason or "reset" in reason:
        return (
            f"; where that port wants TLS or a password, set {variable('kafka_security_protocol')}"
        )
    return ""


def _plain(complaint: str) -> str:
    """Return the cause in an error's text without the client's words: "Connection refused"."""
    found = re.search(r"\[Errno (-?\d+)\] ([^'\"]*)", complaint)
    if found is None:
        return re.sub(r'^Unable connect to "[^"]*": ?(\[Error \d+\] )?', "", complaint)
    number = int(found[1])  # below zero: an error of the resolver, with texts of its own
    return os.strerror(number) if number > 0 else found[2].strip(" ()")


@contextmanager
def _bootstrap_complaints() -> Iterator[list[str]]:
    """Collect aiokafka's log lines while it connects, and keep them out of the log.

    Its exception says only that it failed; the reason (refused, wrong password, no TLS) is logged.
    """
    complaints: list[str] = []
    logger = logging.getLogger("aiokafka")
    children = [logger, *(logging.getLogger(f"aiokafka.{name}") for name in ("client", "conn"))]

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            complaints.append(" ".join(record.getMessage().split())[:200])
        return False

    for child in children:
        child.addFilter(keep)
    try:
        yield complaints
    finally:
        for child in children:
            child.removeFilter(keep)


class ClusterAdmin:
    """A connected cluster. Every method raises KafkaAwayError where Kafka has gone away."""

    def __init__(self, client: AIOKafkaAdminClient, brokers: str, principal: str) -> None:
        """`principal`: the user's name in Kafka's ACLs."""
        self._client = client
        self._brokers = brokers
        self._principal = principal

    @property
    def client(self) -> Any:
        """The connected AIOKafkaClient, for other requests."""
        return self._client._client

    async def partition_counts(self) -> dict[str, int]:
        """Return topic → number of partitions, for all topics that this user may see."""
        return {
            topic["topic"]: len(topic["partitions"])
            for topic in await self._describe()
            if not topic["error_code"] and topic["partitions"]
        }

    async def topic_configs(
        self, names: Iterable[str], keys: Sequence[str]
    ) -> dict[str, dict[str, str]]:
        """Return topic → setting → value, without topics whose settings this user may not see."""
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(keys)) for name in names
        ]
        if not resources:
            return {}
        with self._away():
            answers = await self._client.describe_configs(resources)
        return {
            resource["resource_name"]: {
                entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]
            }
            for answer in answers
            for resource in answer.to_object()["resources"]
            if not resource["error_code"]
        }

    async def set_configs(self, configs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Change settings of topics; other settings stay. Return refused topic → why."""
        if not configs:
            return {}
        with self._away():
            answer = await self._client._send_to_controller(AlterTopicConfigs(configs))
        return {
            name: " ".join((message or for_code(error_code).__name__).split())
            for error_code, message, _, name in answer.resources
            if error_code
        }

    async def missing_rights(self, settings: Settings, topics: Topics) -> list[str]:
        """Return a line for each right that a worker needs and doesn't have, as far as this version
        of Kafka can say."""
        deadline = asyncio.get_running_loop().time() + REQUEST_SECONDS
        with self._away():
            while True:
                try:
                    return await find_missing(self.client, settings, topics)
                except (IncompatibleBrokerVersion, NotImplementedError):
                    return []
                except KafkaError as error:
                    # The coordinator moves, or is just being chosen.
                    if not error.retriable or asyncio.get_running_loop().time() > deadline:
                        raise
                await asyncio.sleep(RETRY_SECONDS / 4)

    async def session_trouble(self, settings: Settings) -> str | None:
        """Return why the brokers would refuse the session timeout; None: they accept it, or this
        user may not ask."""
        keys = ("group.min.session.timeout.ms", "group.max.session.timeout.ms")
        node = self.client.get_random_node()
        resource = ConfigResource(ConfigResourceType.BROKER, str(node), dict.fromkeys(keys))
        with self._away():
            (answer,) = await self._client.describe_configs([resource])
        (described,) = answer.to_object()["resources"]
        limits = {
            one["config_names"]: float(one["config_value"]) / 1000
            for one in described["config_entries"]
        }
        if len(limits) < len(keys):
            return None
        least, most = (limits[key] for key in keys)
        if least <= settings.session_timeout_seconds <= most:
            return None
        return (
            f"the brokers take sessions of {least:g} to {most:g} s: set "
            f"{variable('session_timeout_seconds')} to one of these"
        )

    async def members(self, group: str) -> list[tuple[str, str, str, bytes]]:
        """Return a group's members as (member id, client id, host, assignment's bytes)."""
        with self._away():
            (answer,) = await _patiently(lambda: self._client.describe_consumer_groups([group]))
        (described,) = answer.to_object()["groups"]
        return [
            (one["member_id"], one["client_id"], one["client_host"], one["member_assignment"])
            for one in described["members"]
        ]

    async def committed_offsets(self, group: str) -> dict[TP, int]:
        """Return a group's committed offsets by partition."""
        with self._away():
            offsets = await _patiently(lambda: self._client.list_consumer_group_offsets(group))
        return {
            TP(tp.topic, tp.partition): known.offset
            for tp, known in offsets.items()
            if known.offset >= 0
        }

    async def create(
        self, topics: Sequence[Topic], replication_factor: int, *, is_trial: bool = False
    ) -> None:
        """Create topics; return when they can be used. A topic that another program created
        meanwhile is left unchanged. `is_trial`: only validate, create nothing.
        """
        if not topics:
            return
        with self._away():
            answer = await self._client.create_topics(
                [
                    NewTopic(
                        name=topic.name,
                        num_partitions=topic.partitions,
                        replication_factor=replication_factor,
                        topic_configs=topic.configs(),
                    )
                    for topic in topics
                ],
                timeout_ms=int(REQUEST_SECONDS * 1000),
                validate_only=is_trial,
            )
        for row in answer.to_object()["topic_errors"]:
            self._check_created(row["topic"], row["error_code"], row.get("error_message"))
        if is_trial:
            return
        await self._wait_until_visible({topic.name for topic in topics})

    def _check_created(self, name: str, error_code: int, message: str | None) -> None:
        if not error_code:
            return
        error = for_code(error_code)
        if error is TopicAlreadyExistsError:
            return
        if error is TopicAuthorizationFailedError:
            told = MissingRight("Create", "topic", name).told(self._principal)
            raise CommandError(f"{told}; or create it yourself")
        reason = " ".join((message or error.__name__).split())
        advice: dict[Callable[..., BaseException], str] = {
            InvalidReplicationFactorError: f"set {variable('replication_factor')} to at most the "
            "number of brokers",
            PolicyViolationError: "create it yourself as the cluster's policy wants it",
            NotControllerError: "the cluster is choosing a controller; run this again",
            RequestTimedOutError: "the cluster is slow; run this again",
        }
        what_to_do = advice.get(error, "see the broker's log")
        raise CommandError(f"Kafka refuses to create {name} ({reason}): {what_to_do}")

    async def add_partitions(self, counts: Mapping[str, int]) -> None:
        """Add partitions to topics, up to these numbers; return when they can be used."""
        if not counts:
            return
        with self._away():
            answer = await self._client.create_partitions(
                {name: NewPartitions(total_count=count) for name, count in counts.items()}
            )
        for row in answer.to_object()["topic_errors"]:
            if row["error_code"]:
                reason = " ".join((row.get("error_message") or "").split())
                raise CommandError(
                    f"Kafka gives {row['topic']} no more partitions "
                    f"({reason or for_code(row['error_code']).__name__}): allow this user ALTER "
                    "on it, then run this again"
                )
        await self._wait_until_visible(set(counts), counts)

    async def _wait_until_visible(
        self, names: set[str], counts: Mapping[str, int] | None = None
    ) -> None:
        """Wait until every broker knows new topics or partitions, and all have leaders."""
        deadline = asyncio.get_running_loop().time() + VISIBLE_SECONDS
        while True:
            ready = {
                topic["topic"]
                for topic in await self._describe()
                if len(topic["partitions"]) >= (counts or {}).get(topic["topic"], 1)
                and all(partition["leader"] >= 0 for partition in topic["partitions"])
            }
            missing = names - ready
            if not missing:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise CommandError(
                    f"Kafka created {min(missing)} and gives it no leader: check that all "
                    "brokers are up, then run this again"
                )
            await asyncio.sleep(0.1)

    async def _describe(self) -> list[Mapping[str, Any]]:
        # Ask for all topics: a question for one by name might create it, with default settings.
        with self._away():
            topics: list[Mapping[str, Any]] = await self._client.describe_topics()
        return topics

    @contextmanager
    def _away(self) -> Iterator[None]:
        try:
            yield
        # AttributeError: aiokafka's, while the cluster has no controller.
        except (*_AWAY, AttributeError) as error:
            raise KafkaAwayError(
                f"Kafka at {self._brokers} stopped answering ({type(error).__name__}): check that "
                "all brokers are up, and that their advertised.listeners lead there from here"
            ) from error


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a request while the group's coordinator is chosen or moves. In a new cluster the first
    one takes a moment. Raises KafkaError."""
    now = asyncio.get_running_loop().time
    deadline = now() + REQUEST_SECONDS
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or now() > deadline:
                raise
        await asyncio.sleep(RETRY_SECONDS / 5)

"""A broker for single tests: with users and rights, and transactions that can be left hanging."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NoError, NotLeaderForPartitionError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import (
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from app.local.kafka import NODE_ID, Kafka
from app.local.service import HOST, free_port
from streams.engine.types import TP
from streams.kafka.transactions import describe_transaction
from tests.engine.inprocess import eventually

USER, PASSWORD = "dialwatch", "rights-and-duties"
CLUSTER = "kafka-cluster"


class StrictKafka(Kafka):
    """A broker with three addresses. `bootstrap_servers`: for a user who may do everything.
    `restricted`: for `USER`, who may do what no ACL forbids (at first there is none). `misleading`:
    answers that the broker is at an address where nobody listens."""

    def __init__(self, directory: Path, settings: dict[str, str | int] | None = None) -> None:
        self._restricted_port, self._misleading_port = free_port(), free_port()
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        super().__init__(
            directory,
            settings={
                # Accept a transactional record without asking its coordinator.
                "transaction.partition.verification.enable": "false",
                "authorizer.class.name": (
                    "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
                ),
                "super.users": "User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "true",
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,RESTRICTED:SASL_PLAINTEXT,"
                    "MISLEADING:PLAINTEXT"
                ),
                "inter.broker.listener.name": "PLAINTEXT",
                "listener.name.restricted.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.restricted.plain.sasl.jaas.config": (
                    f'{plain} required user_{USER}="{PASSWORD}";'
                ),
            }
            | (settings or {}),
        )

    def listeners(self) -> dict[str, str]:
        return super().listeners() | {
            "RESTRICTED": self.restricted,
            "MISLEADING": self.misleading,
        }

    def advertised(self) -> dict[str, str]:
        return super().advertised() | {"MISLEADING": f"{HOST}:1"}

    @property
    def misleading(self) -> str:
        """The address where clients are told of another one, at which nobody listens."""
        return f"{HOST}:{self._misleading_port}"

    @property
    def restricted(self) -> str:
        """The address for `USER`, with SASL PLAIN."""
        return f"{HOST}:{self._restricted_port}"

    def variables(self) -> dict[str, str]:
        """Return the settings of a worker that connects as `USER`."""
        return {
            "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": self.restricted,
            "DIALWATCH_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "DIALWATCH_KAFKA_SASL_MECHANISM": "PLAIN",
            "DIALWATCH_KAFKA_SASL_USERNAME": USER,
            "DIALWATCH_KAFKA_SASL_PASSWORD": PASSWORD,
        }

    def options(self) -> dict[str, str]:
        """Return aiokafka's options for `USER`."""
        return {
            "bootstrap_servers": self.restricted,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        }

    @contextlib.asynccontextmanager
    async def denied(self, *operations: str, resource: str, name: str) -> AsyncIterator[None]:
        """Forbid `USER` operations while the context is open, such as `Write` on the `topic` of
        this name."""
        pairs = [("*", "All", _ALLOW), *((USER, operation, _DENY) for operation in operations)]
        acls = [
            (_RESOURCES[resource], name, _LITERAL, f"User:{who}", "*", _OPERATIONS[what], how, {})
            for who, what, how in pairs
        ]
        answer = await self._ask(_CreateAcls(acls))
        assert not any(result[0] for result in answer.results), answer
        # All ACLs of this resource, for any user.
        every = (_RESOURCES[resource], name, _LITERAL, None, None, _ANY, _ANY)
        try:
            await self._until_applied(
                every, {(f"User:{who}", _OPERATIONS[op]) for who, op, _ in pairs}
            )
            yield
        finally:
            await self._ask(_DeleteAcls([(*every, {})]))
            await self._until_applied(every, set())

    async def _until_applied(self, filter_: tuple[Any, ...], wanted: set[tuple[str, int]]) -> None:
        """Wait until the broker goes by these users' operations: a change is written down first,
        and the broker heeds it when it reads that."""
        async with asyncio.timeout(60.0):
            found = None
            while found != wanted:
                answer = await self._ask(_DescribeAcls(filter_))
                assert not answer.error_code, answer
                acls = [
                    acl for _type, _name, _pattern, some, _tags in answer.resources for acl in some
                ]
                found = {(who, what) for who, _host, what, _permission, _tags in acls}

    async def _ask(self, request: Any) -> Any:
        client = AIOKafkaClient(bootstrap_servers=self.bootstrap_servers)
        try:
            await client.bootstrap()
            return await client.send(NODE_ID, request)
        finally:
            await client.close()


_TAGS = ("tags", TaggedFields)
_TEXT = CompactString("utf-8")
_RESOURCES = {"topic": 2, "group": 3, "cluster": 4, "transactional-id": 5}
_OPERATIONS = {
    "All": 2, "Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Alter": 7, "Describe": 8,
    "ClusterAction": 9, "DescribeConfigs": 10, "AlterConfigs": 11, "IdempotentWrite": 12,
}  # fmt: skip
_ANY, _DENY, _ALLOW, _LITERAL = 1, 2, 3, 3
_ACL = (
    ("resource_type", Int8),
    ("resource_name", _TEXT),
    ("pattern_type", Int8),
    ("principal", _TEXT),
    ("host", _TEXT),
    ("operation", Int8),
    ("permission", Int8),
    _TAGS,
)


class _CreateAclsResponse(Response):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("results", CompactArray(("error_code", Int16), ("error_message", _TEXT), _TAGS)),
        _TAGS,
    )


class _CreateAclsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 2
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _CreateAclsResponse
    SCHEMA = Schema(("creations", CompactArray(*_ACL)), _TAGS)


class _CreateAcls(Request[_CreateAclsStruct]):  # type: ignore[misc]
    API_KEY = 30

    def __init__(self, acls: list[Any]) -> None:
        self._acls = acls

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(self._acls, {})


class _DescribeAclsResponse(Response):  # type: ignore[misc]
    API_KEY = 29
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", _TEXT),
        (
            "resources",
            CompactArray(
                ("resource_type", Int8),
                ("resource_name", _TEXT),
                ("pattern_type", Int8),
                (
                    "acls",
                    CompactArray(
                        ("principal", _TEXT),
                        ("host", _TEXT),
                        ("operation", Int8),
                        ("permission", Int8),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeAclsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 29
    API_VERSION = 2
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeAclsResponse
    SCHEMA = Schema(*_ACL)


class _DescribeAcls(Request[_DescribeAclsStruct]):  # type: ignore[misc]
    """Answered by the broker's own authorizer, by what it goes by itself."""

    API_KEY = 29

    def __init__(self, filter_: tuple[Any, ...]) -> None:
        self._filter = filter_

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._filter, {})


class _DeleteAclsResponse(Response):  # type: ignore[misc]
    API_KEY = 31
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("error_code", Int16),
                ("error_message", _TEXT),
                (
                    "matching",
                    CompactArray(("error_code", Int16), ("error_message", _TEXT), *_ACL),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DeleteAclsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 31
    API_VERSION = 2
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DeleteAclsResponse
    SCHEMA = Schema(("filters", CompactArray(*_ACL)), _TAGS)


class _DeleteAcls(Request[_DeleteAclsStruct]):  # type: ignore[misc]
    API_KEY = 31

    def __init__(self, filters: list[Any]) -> None:
        self._filters = filters

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(self._filters, {})


class Written(NamedTuple):
    """A record of a transaction."""

    tp: TP
    key: bytes
    value: bytes
    timestamp_ms: int | None = None
    """None: now."""


async def leave_hanging(
    brokers: str,
    transactional_id: str,
    *,
    is_commit: bool,
    written: Iterable[Written],
    hanging: Iterable[Written],
) -> None:
    """Run a transaction that ends properly in the partitions of `written` and hangs in those of
    `hanging`, as if its markers there were lost."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, transactional_id=transactional_id)
    try:
        await producer.start()
        await producer.begin_transaction()
        for tp, key, value, timestamp in written:
            await producer.send_and_wait(
                tp.topic, value, key=key, partition=tp.partition, timestamp_ms=timestamp
            )
        await (producer.commit_transaction() if is_commit else producer.abort_transaction())
        for record in hanging:
            await write_late(producer, record)
    finally:
        await producer.stop()


async def write_late(producer: AIOKafkaProducer, record: Written) -> None:
    """Write one record with a transaction that has ended already."""
    tp, manager = TopicPartition(*record.tp), producer._txn_manager

    async def has_ended() -> bool:
        # The end is answered before the markers are written, and one that comes late would end
        # this record too.
        known = await describe_transaction(producer.client, manager.transactional_id)
        return known is None or not known.state.startswith("Prepare")

    await eventually(has_ended, "its markers are written")
    batch = producer.create_batch()
    batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms)
    batch._set_producer_state(
        manager.producer_id, manager.producer_epoch, manager.sequence_number(tp)
    )
    request = ProduceRequest(
        transactional_id=manager.transactional_id,
        required_acks=-1,
        timeout=10_000,
        topics=[(tp.topic, [(tp.partition, bytes(batch._build()))])],
    )
    await producer.partitions_for(tp.topic)
    node = producer.client.cluster.leader_for_partition(tp)
    error: type[Exception] = NotLeaderForPartitionError
    while error is NotLeaderForPartitionError:  # a topic that was just created
        answer = await producer.client.send(node, request)
        ((_topic, ((_partition, error_code, *_),)),) = answer.topics
        error = for_code(error_code)
        await asyncio.sleep(0.05)
    assert error is NoError
    manager.increment_sequence_number(tp, 1)

"""This program's user and rights in Kafka, and the lines about rights that are missing.

Asks Kafka and changes nothing: Metadata and DescribeGroups return the authorized operations;
AddPartitionsToTxn is sent for a producer that doesn't exist, and fails only after Kafka has checked
the rights.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE = 3, 4, 5, 6, 7, 8
DESCRIBE_CONFIGS, ALTER_CONFIGS = 10, 11
"""Kafka's numbers for operations."""

_NAMES = {
    READ: "Read", WRITE: "Write", CREATE: "Create", DELETE: "Delete", ALTER: "Alter",
    DESCRIBE: "Describe", DESCRIBE_CONFIGS: "DescribeConfigs", ALTER_CONFIGS: "AlterConfigs",
}  # fmt: skip
_UNKNOWN = -(2**31)
"""Kafka's value for "not known"."""
_TEXT = String("utf-8")


class ForbiddenError(Exception):
    """Kafka forbids a necessary operation; the text names right, resource and user."""


class MissingRight(NamedTuple):
    """An operation that a user may not do."""

    operation: str
    kind: str
    """`topic`, `group` or `transactional-id`, as kafka-acls.sh names them."""
    name: str

    def told(self, principal: str) -> str:
        """Return a line with right, resource, user and what to do."""
        return (
            f"Kafka forbids {principal} {self.operation} on {self.kind} {self.name}: "
            f"kafka-acls.sh --add --allow-principal '{principal}' --operation {self.operation} "
            f"--{self.kind} {self.name}, and look for a DENY that stands against it"
        )


def principal_of(client_options: Mapping[str, Any]) -> str:
    """Return the user's name in Kafka's ACLs, as far as a client can know it.

    `client_options`: by aiokafka's parameter names. The broker chooses the name of a certificate's
    user.
    """
    name = client_options.get("sasl_plain_username")
    if name:
        return f"User:{name}"
    if client_options.get("security_protocol") == "SSL":
        return "the certificate's user"
    return "User:ANONYMOUS"


def forbidden(
    error: BaseException, client_options: Mapping[str, Any], *, operation: str, group: str = "?"
) -> ForbiddenError | None:
    """Return the error to raise for Kafka's error about a missing right; None: it isn't about one.

    `operation`: what was tried with a topic. `group`: the consumer group of the member or of the
    transaction.
    """
    right = right_of(error, operation=operation, group=group)
    if right is None:
        return None
    said = ForbiddenError(right.told(principal_of(client_options)))
    said.__cause__ = error
    return said


def right_of(error: BaseException, *, operation: str, group: str) -> MissingRight | None:
    """Return the right that Kafka's error is about; None: it isn't about one.

    `operation`: what was tried with a topic. `group`: see `forbidden`. The error itself names only
    topics.
    """
    match error:
        case GroupAuthorizationFailedError():
            return MissingRight("Read", "group", group)
        case TransactionalIdAuthorizationFailed():
            return MissingRight("Write", "transactional-id", transactional_ids(group))
        case TopicAuthorizationFailedError():
            named = error.args[0] if error.args else "?"
            if isinstance(named, set | frozenset | list | tuple):
                named = ", ".join(sorted(map(str, named)))
            return MissingRight(operation, "topic", str(named))
    return None


def transactional_ids(group: str) -> str:
    """Return kafka-acls.sh's arguments for the transactional ids of all workers of a group."""
    return f"{group}- --resource-pattern-type prefixed"


# Metadata as brokers from Kafka 2.3 on answer it; `protocol.py` has v10, which needs Kafka 2.8.
class _TopicRightsResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("cluster_id", _TEXT),
        ("controller", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("operations", Int32),
    )


class _TopicRightsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _TopicRightsResponse
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("creates", Boolean),
        ("with_cluster_operations", Boolean),
        ("with_topic_operations", Boolean),
    )


class _TopicRights(Request[_TopicRightsStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = sorted(topics)

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(self._topics, False, False, True)


class _DescribeGroupsResponse(Response):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", _TEXT),
                ("state", _TEXT),
                ("protocol_type", _TEXT),
                ("protocol", _TEXT),
                (
                    "members",
                    Array(
                        ("member_id", _TEXT),
                        ("client_id", _TEXT),
                        ("host", _TEXT),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
    )


class _DescribeGroupsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _DescribeGroupsResponse
    SCHEMA = Schema(("groups", Array(_TEXT)), ("with_operations", Boolean))


class _DescribeGroups(Request[_DescribeGroupsStruct]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class([self._group], True)


async def missing_on_topics(
    client: AIOKafkaClient, wanted: Mapping[str, Collection[int]]
) -> list[MissingRight]:
    """Return the rights that are missing for operations on topics. Raises KafkaError."""
    answer = await client.send(client.get_random_node(), _TopicRights(wanted.keys()))
    missing = []
    for error_code, topic, _internal, _partitions, operations in answer.topics:
        if for_code(error_code) is TopicAuthorizationFailedError:
            missing.append(MissingRight("Describe", "topic", topic))
        elif not error_code and operations != _UNKNOWN:
            missing += (
                MissingRight(_NAMES[operation], "topic", topic)
                for operation in wanted[topic]
                if not operations >> operation & 1
            )
    return missing


async def missing_on_group(client: AIOKafkaClient, group: str) -> tuple[list[MissingRight], str]:
    """Return the rights that are missing to join a group, and the name of its assignor (empty: it
    has no members). Raises KafkaError."""
    node = await client.coordinator_lookup(CoordinationType.GROUP, group)
    answer = await client.send(node, _DescribeGroups(group))
    ((error_code, _group, _state, _type, assignor, _members, operations),) = answer.groups
    if for_code(error_code) is GroupAuthorizationFailedError:
        return [MissingRight("Read", "group", group)], ""
    may_read = operations == _UNKNOWN or operations >> READ & 1
    return [] if may_read else [MissingRight("Read", "group", group)], assignor or ""


async def missing_for_transactions(
    client: AIOKafkaClient, transactional_id: str, topics: Mapping[str, int]
) -> list[MissingRight]:
    """Return the rights that are missing to write to topics in a transaction. `topics`: one
    partition of each.

    Raises TransactionalIdAuthorizationFailed where the id itself may not be used; KafkaError.
    """
    node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    tried = [(topic, [partition]) for topic, partition in topics.items()]
    answer = await client.send(node, AddPartitionsToTxnRequest(transactional_id, 0, 0, tried))
    missing = []
    for topic, partitions in answer.errors:
        for _partition, error_code in partitions:
            error = for_code(error_code)
            if error is TransactionalIdAuthorizationFailed:
                raise error
            if error is TopicAuthorizationFailedError:
                missing.append(MissingRight("Write", "topic", topic))
    return missing

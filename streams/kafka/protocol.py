"""Kafka requests, or versions of them, that aiokafka 0.14 lacks, and how their answers are read.

TxnOffsetCommit v3 carries the consumer group's generation, so that a worker which lost its
partitions can't commit (KIP-447). OffsetFetch v7 can require stable offsets, so that a dead owner's
pending commit isn't overlooked. IncrementalAlterConfigs leaves the settings that it doesn't name.
Metadata v10 has topic ids, by which a topic that was made anew is recognized.
Fields: the Kafka protocol guide (kafka.apache.org/protocol).
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.errors import IllegalGenerationError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

from streams.engine.types import TP


class Membership(NamedTuple):
    """A worker's member id and generation in the consumer group."""

    group: str
    generation: int
    member_id: str


class CommittedOffset(NamedTuple):
    """A group's offset of one partition; -1: none. `is_stable`: no transaction is pending that
    would change it. `metadata`: the transactional id that committed it; empty: it was set by hand.
    `has_position`: the same transaction wrote the position into the changelog."""

    offset: int
    metadata: str
    is_stable: bool
    has_position: bool = False


class _TxnOffsetCommitResponse(Response):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("group_id", CompactString("utf-8")),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", CompactString("utf-8")),
        ("group_instance_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommit(Request[_TxnOffsetCommitStruct]):  # type: ignore[misc]
    """Commit source offsets as part of a transaction, fenced by the group's generation."""

    API_KEY = 28

    def __init__(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        membership: Membership,
        offsets: dict[TP, int],
    ) -> None:
        if membership.generation < 0 or not membership.member_id:
            # The broker would take generation -1 for a client without a group, and fence nothing.
            # aiokafka has -1 when the session ended while partitions were being assigned.
            raise IllegalGenerationError("no generation to commit under")
        self._fields: tuple[Any, ...] = (
            transactional_id,
            membership.group,
            producer_id,
            producer_epoch,
            membership.generation,
            membership.member_id,
            None,
            _by_topic(
                offsets,
                # With the id as metadata the next owner can end what this worker left open.
                lambda tp: (tp.partition, offsets[tp], _WITH_POSITION, transactional_id, {}),
            ),
            {},
        )

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


class _OffsetFetchResponse(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class OffsetFetch(Request[_OffsetFetchStruct]):  # type: ignore[misc]
    """Ask for a group's committed offsets."""

    API_KEY = 9

    def __init__(self, group: str, tps: list[TP], *, require_stable: bool) -> None:
        self._fields: tuple[Any, ...] = (
            group,
            _by_topic(dict.fromkeys(tps, 0), lambda tp: tp.partition),
            require_stable,
            {},
        )

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


class _AlterConfigsResponse(Response):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "resources",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _AlterConfigsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _AlterConfigsResponse
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(
                        ("name", String("utf-8")),
                        ("operation", Int8),
                        ("value", String("utf-8")),
                    ),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


_NO_ID = bytes(16)
_MISSING = 3


class DescribeTopics(Request[_MetadataStruct]):  # type: ignore[misc]
    """Ask for topics' ids and partitions (Metadata v10). Creates no topic."""

    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        tags: dict[int, bytes] = {}
        self._topics = [(_NO_ID, topic, tags) for topic in sorted(topics)]

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(self._topics, False, False, False, {})


def read_topic_ids(response: Any) -> dict[str, bytes]:
    """Return the ids of the topics that exist. Raises aiokafka's error classes."""
    found = {}
    for error_code, name, topic_id, *_ in response.topics:
        if error_code == _MISSING:
            continue
        if error_code:
            raise for_code(error_code)
        found[name] = b"" if topic_id == _NO_ID else topic_id
    return found


_TOPIC, _SET = 2, 0


class AlterTopicConfigs(Request[_AlterConfigsStruct]):  # type: ignore[misc]
    """Change settings of topics, given by topic and name; their other settings stay."""

    API_KEY = 44

    def __init__(self, configs: Mapping[str, Mapping[str, str]]) -> None:
        self._resources = [
            (_TOPIC, topic, [(name, _SET, value) for name, value in settings.items()])
            for topic, settings in configs.items()
        ]

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(self._resources, False)


_UNSTABLE_OFFSET_COMMIT = 88
# Sent as the leader's epoch, a field that nobody else uses. 0.1.0 sends -1 and writes no positions
# into the changelog; in a group with both versions the two must be told apart.
_WITH_POSITION = 0


def _by_topic(offsets: dict[TP, int], entry: Any) -> list[tuple[str, list[Any], dict[int, bytes]]]:
    topics: dict[str, list[Any]] = {}
    for tp in sorted(offsets):
        topics.setdefault(tp.topic, []).append(entry(tp))
    return [(topic, entries, {}) for topic, entries in topics.items()]


def read_offset_commit(response: Any) -> None:
    """Raise the first error of a TxnOffsetCommit's answer, as aiokafka's error class."""
    for _topic, partitions, _tags in response.topics:
        for _partition, error_code, _ in partitions:
            if error_code:
                raise for_code(error_code)


def read_offset_fetch(response: Any) -> dict[TP, CommittedOffset]:
    """Return the offsets of an OffsetFetch's answer. Raises aiokafka's error classes."""
    if response.error_code:
        raise for_code(response.error_code)
    found: dict[TP, CommittedOffset] = {}
    for topic, partitions, _tags in response.topics:
        for partition, offset, epoch, metadata, error_code, _ in partitions:
            if error_code and error_code != _UNSTABLE_OFFSET_COMMIT:
                raise for_code(error_code)
            found[TP(topic, partition)] = CommittedOffset(
                offset, metadata or "", not error_code, epoch == _WITH_POSITION
            )
    return found

"""A broker of a test's own: with users and rights, and transactions that can be made to hang."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest

from app.local.kafka import Kafka
from app.local.service import HOST, free_port
from streams.engine.types import TP

USER, PASSWORD = "dialwatch", "rights-and-duties"


class StrictKafka(Kafka):
    """`bootstrap_servers` is for somebody who may do everything, `restricted` for `USER`, who may
    do what no ACL forbids; there are none at first."""

    def __init__(self, directory: Path, settings: dict[str, str | int] | None = None) -> None:
        self._restricted_port = free_port()
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        super().__init__(
            directory,
            settings={
                # A transactional record is taken whatever its coordinator says.
                "transaction.partition.verification.enable": "false",
                "authorizer.class.name": (
                    "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
                ),
                "super.users": "User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "true",
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,RESTRICTED:SASL_PLAINTEXT"
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
        return super().listeners() | {"RESTRICTED": self.restricted}

    @property
    def restricted(self) -> str:
        """Where `USER` connects, with SASL PLAIN."""
        return f"{HOST}:{self._restricted_port}"

    def variables(self) -> dict[str, str]:
        """The settings of a worker that is `USER`."""
        return {
            "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": self.restricted,
            "DIALWATCH_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "DIALWATCH_KAFKA_SASL_MECHANISM": "PLAIN",
            "DIALWATCH_KAFKA_SASL_USERNAME": USER,
            "DIALWATCH_KAFKA_SASL_PASSWORD": PASSWORD,
        }


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
    """Run a transaction that ends as it should where it has `written`, and hangs in `hanging`:
    as if those had been written in time and their markers lost."""
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
            await _write_late(producer, record)
    finally:
        await producer.stop()


async def _write_late(producer: AIOKafkaProducer, record: Written) -> None:
    tp, manager = TopicPartition(*record.tp), producer._txn_manager
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
    answer = await producer.client.send(node, request)
    ((_topic, ((_partition, error_code, *_),)),) = answer.topics
    assert error_code == 0, for_code(error_code)

"""What we use of aiokafka that it doesn't promise is still there, in the version it was read in."""

import inspect
from importlib.metadata import version

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, cluster
from aiokafka.consumer import fetcher
from aiokafka.producer import message_accumulator, sender, transaction_manager
from aiokafka.record import default_records

import streams.kafka

LOOK = f"read again what it does, then raise this: {streams.kafka.__doc__}"
READ_IN = "0.14."


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("aiokafka").startswith(READ_IN), LOOK


def test_what_is_patched_or_reached_into_is_there() -> None:
    assert isinstance(sender.BACKOFF_OVERRIDE, float), LOOK
    for owner, names in (
        (
            fetcher.PartitionRecords,
            ("_unpack_records", "_consume_aborted_up_to", "_contains_abort"),
        ),
        (fetcher, ("MemoryRecords",)),
        (fetcher.FetchResult, ("getall", "check_assignment", "has_more", "_update_position")),
        (transaction_manager.TransactionManager, ("error_transaction", "_txn_partitions")),
        (message_accumulator.BatchBuilder, ("_builder", "_relative_offset")),
        (default_records._DefaultRecordBatchPy, ("_maybe_uncompress", "_buffer")),
        (cluster.ClusterMetadata, ("_partitions",)),
        (AIOKafkaProducer, ("_txn_manager", "_sender")),
        (AIOKafkaConsumer, ("_isolation_level", "_fetcher", "_subscription", "_coordinator")),
    ):
        source = inspect.getsource(owner)
        for name in names:
            assert name in source, f"{owner.__name__}.{name}: {LOOK}"

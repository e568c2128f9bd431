"""What uses aiokafka's internals: patches, requests that it lacks, reading without a group.

An upgrade of aiokafka touches this folder and `streams/engine/consumer.py`. Below is each private
part that is used, and why; `tests/engine/test_aiokafka.py` checks the list and the version.

    producer.sender.BACKOFF_OVERRIDE        its 20 ms between two transactions are most of an alert
    producer._txn_manager, its state,       an abort of an "empty" transaction sends no EndTxn; the
        _txn_partitions                     partitions are joined before anything is written
    producer._sender.sender_task            its end is the only sign of a failure it keeps to itself
    batch._builder, _relative_offset        records appended without a future each
    consumer.fetcher.PartitionRecords,      whole record batches as lists of C records, instead of
        FetchResult, MemoryRecords          one Python object each
    record.default_records                  its parser in Python reads names of headers that are no
        ._DefaultRecordBatchPy              UTF-8, at which the one in C gives a batch up
    cluster._partitions                     which replicas are in sync
    consumer._isolation_level, _fetcher,    Faust sets them otherwise, or not at all
        _fetch_max_wait_ms, _subscription,
        _coordinator
    protocol.api Request and Response       requests that it lacks, written by hand: TxnOffsetCommit
                                            v3 (the group's fence), OffsetFetch v7 (require stable),
                                            DescribeProducers, DescribeTransactions, WriteTxnMarkers
"""

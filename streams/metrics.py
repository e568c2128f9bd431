"""The engine's Prometheus metrics: one prefix, base units, labels from closed sets.

The metrics of rules and senders are in `agents/metrics.py`, those of the WeChat token beside it.
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# These would be a second series for each counter and histogram, which nobody uses.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RECORDS = Counter(
    "dialwatch_records_total",
    "Records folded; those of a cycle that failed are folded again",
    ["topic"],
)
COMMIT_SECONDS = Histogram(
    "dialwatch_commit_seconds", "From a cycle's end to its commit", buckets=BUCKETS
)
BATCH_RECORDS = Histogram(
    "dialwatch_batch_records",
    "Records in one transaction",
    buckets=(1, 10, 100, 1000, 10_000, 50_000),
)
LAG = Gauge("dialwatch_lag_records", "Records not yet folded", ["topic", "partition"])
BEHIND_SECONDS = Gauge(
    "dialwatch_behind_seconds",
    "Age of the oldest record that waits to be folded",
    ["topic", "partition"],
)
RESTORED = Gauge("dialwatch_restored_ratio", "Part of the state that is restored")
REBALANCES = Counter("dialwatch_rebalances_total", "Assignments taken")
TAKEOVER_SECONDS = Histogram(
    "dialwatch_takeover_seconds",
    "From an assignment to the first fold",
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
RESTORE_SECONDS = Histogram(
    "dialwatch_restore_seconds",
    "Reading the changelogs of a takeover",
    buckets=(0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
ABORTED = Counter("dialwatch_transactions_aborted_total", "Cycles that failed and are folded again")
READY = Gauge("dialwatch_ready", "Are partitions assigned and restored? 1: yes")
BUILD = Gauge("dialwatch_build_info", "The version that runs", ["version"])


def expect(topic: str) -> None:
    """Show a topic's metrics with 0 before any record of it is folded."""
    RECORDS.labels(topic)

"""What is counted, for Prometheus: one prefix, base units, labels from closed sets only."""

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RECORDS = Counter(
    "dialwatch_records_total",
    "Records folded; those of a cycle that failed are folded again",
    ["topic"],
)
DEAD_LETTERS = Counter("dialwatch_dead_letters_total", "Invalid records", ["topic", "reason"])
NOTIFICATIONS = Counter(
    "dialwatch_notifications_total",
    "Commands noticed; those of a cycle that failed are noticed again",
    ["scenario", "channel"],
)
DELIVERIES = Counter(
    "dialwatch_deliveries_total", "What became of commands", ["channel", "status", "reason"]
)
COMMIT_SECONDS = Histogram(
    "dialwatch_commit_seconds", "From a cycle's end to its commit", buckets=_BUCKETS
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
PROVIDER_SECONDS = Histogram(
    "dialwatch_provider_seconds", "Answer time of a provider", ["channel"], buckets=_BUCKETS
)
TOKEN_SECONDS = Gauge("dialwatch_wechat_token_remaining_seconds", "Life left of the WeChat token")
HOLDS = Gauge("dialwatch_holds", "Channels on hold for everybody", ["channel", "reason"])
PENDING = Gauge("dialwatch_pending_commands", "Commands begun and not finished", ["channel"])
BUILD = Gauge("dialwatch_build_info", "The version that runs", ["version"])

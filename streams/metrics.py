"""What is counted, for Prometheus: one prefix, base units, labels from closed sets only."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from streams.records import SCENARIOS, Channel, Status

# A second series for each counter and histogram, that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]

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
SUPPRESSED = Counter(
    "dialwatch_notifications_suppressed_total",
    "What was noticed and makes no command, by reason; what is skipped later is a delivery",
    ["scenario", "reason"],
)
EVENT_TO_SENT_SECONDS = Histogram(
    "dialwatch_event_to_sent_seconds",
    "From the event that caused a notification to the provider's word that it was taken",
    ["channel"],
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0),
)
LEDGER_SECONDS = Histogram(
    "dialwatch_ledger_seconds", "Answer time of the sender's ledger", buckets=_BUCKETS
)
PROVIDER_SECONDS = Histogram(
    "dialwatch_provider_seconds", "Answer time of a provider", ["channel"], buckets=_BUCKETS
)
TOKEN_AGE_SECONDS = Gauge("dialwatch_wechat_token_age_seconds", "Since WeChat gave the token")
TOKEN_SECONDS = Gauge("dialwatch_wechat_token_remaining_seconds", "Life left of the WeChat token")
HOLDS = Gauge("dialwatch_holds", "Channels on hold for everybody", ["channel", "reason"])
HOLD_SINCE = Gauge(
    "dialwatch_hold_since_timestamp_seconds",
    "When a hold began; 0: it is over",
    ["channel", "reason"],
)
PENDING = Gauge("dialwatch_pending_commands", "Commands begun and not finished", ["channel"])
BUILD = Gauge("dialwatch_build_info", "The version that runs", ["version"])

CHANNELS: tuple[Channel, ...] = get_args(Channel)
# What never happened is 0 and not missing: a rate of it is a number, and an alert on it can fire.
for _channel in CHANNELS:
    for _scenario in SCENARIOS:
        NOTIFICATIONS.labels(_scenario, _channel)
    for _status in get_args(Status):
        if _status != "skipped":  # which has a reason, always
            DELIVERIES.labels(_channel, _status, "")
    EVENT_TO_SENT_SECONDS.labels(_channel)
    PROVIDER_SECONDS.labels(_channel)
    PENDING.labels(_channel)
for _scenario in SCENARIOS:
    SUPPRESSED.labels(_scenario, "no_channel")
SUPPRESSED.labels("low_balance", "told_today")


def expect(topic: str) -> None:
    """Show a topic that is folded from the beginning, with nothing folded and nothing invalid."""
    RECORDS.labels(topic)
    DEAD_LETTERS.labels(topic, "value")

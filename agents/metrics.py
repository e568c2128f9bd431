"""What is counted of rules and of the sender, for Prometheus: labels from closed sets only."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from streams.metrics import BUCKETS
from streams.records import SCENARIOS, Channel, Status

DEAD_LETTERS = Counter("dialwatch_dead_letters_total", "Invalid records", ["topic", "reason"])
NOTIFICATIONS = Counter(
    "dialwatch_notifications_total",
    "Commands noticed; those of a cycle that failed are noticed again",
    ["scenario", "channel"],
)
SUPPRESSED = Counter(
    "dialwatch_notifications_suppressed_total",
    "What was noticed and makes no command, by reason; what is skipped later is a delivery",
    ["scenario", "reason"],
)
DELIVERIES = Counter(
    "dialwatch_deliveries_total", "What became of commands", ["channel", "status", "reason"]
)
EVENT_TO_SENT_SECONDS = Histogram(
    "dialwatch_event_to_sent_seconds",
    "From the event that caused a notification to the provider's word that it was taken",
    ["channel"],
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0),
)
LEDGER_SECONDS = Histogram(
    "dialwatch_ledger_seconds", "Answer time of the sender's ledger", buckets=BUCKETS
)
PROVIDER_SECONDS = Histogram(
    "dialwatch_provider_seconds", "Answer time of a provider", ["channel"], buckets=BUCKETS
)
HOLDS = Gauge("dialwatch_holds", "Channels on hold for everybody", ["channel", "reason"])
HOLD_SINCE = Gauge(
    "dialwatch_hold_since_timestamp_seconds",
    "When a hold began; 0: it is over",
    ["channel", "reason"],
)
PENDING = Gauge("dialwatch_pending_commands", "Commands begun and not finished", ["channel"])

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
    """Show a topic that is folded from the beginning, with nothing invalid."""
    DEAD_LETTERS.labels(topic, "value")

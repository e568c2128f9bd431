"""The console's own metrics. Labels are from closed sets only, never an account."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from streams.topics import Topics

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

RECORDS = Counter("dialwatch_console_records", "Records indexed.", ["topic"], registry=REGISTRY)
UNREADABLE = Gauge(
    "dialwatch_console_unreadable_records", "Records passed over since the start: no JSON of ours.",
    registry=REGISTRY,
)  # fmt: skip
LEFT = Gauge(
    "dialwatch_console_offsets_left",
    "Offsets up to the ends that stood when the console began to read.", registry=REGISTRY,
)  # fmt: skip
QUERIES = Histogram(
    "dialwatch_console_query_seconds", "How long the index took to answer.", ["query"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5), registry=REGISTRY,
)  # fmt: skip
HANDLED = Counter(
    "dialwatch_console_letters_handled", "Dead letters handled from here.", ["verb"],
    registry=REGISTRY,
)  # fmt: skip
# What never happened is 0 and not missing, see `agents/metrics.py`.
for _verb in ("redrive", "discard"):
    HANDLED.labels(_verb)


def expect_topics(topics: Topics) -> None:
    """Show the topics that are indexed with 0 before any record is."""
    for topic in (
        topics.notifications, topics.deliveries, topics.inbox_messages, topics.dead_letters,
        topics.changelog, topics.handled_letters,
    ):  # fmt: skip
        RECORDS.labels(topic)

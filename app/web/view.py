"""The worker's state for its web server. No method blocks or raises.

It exists before the worker does, so that operators can see what a start is waiting for.
"""

import time
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from agents.holds import HoldView
from agents.metrics import PENDING
from app.channels.wechat.token import TOKEN_SECONDS
from app.settings import Settings, variable
from app.shared_holds import merged
from app.web.history import History, Sample, sparkline
from streams import metrics
from streams.engine.phases import Phase

if TYPE_CHECKING:
    from app.main import Worker

# Longer than Faust's longest poll interval: without a poll for so long, reading hangs.
STUCK_SECONDS = 300.0


class TopicView(NamedTuple):
    """How far one topic is read, over all of this worker's partitions."""

    name: str
    partitions: int
    folded: int
    per_second: float | None
    records_behind: int
    seconds_behind: float
    sparkline: str


class ProviderView(NamedTuple):
    """The state of something that sending depends on; `is_well` None: it isn't used."""

    name: str
    is_well: bool | None
    state: str


class WorkerView:
    """One worker, seen from outside."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.version = version("dialwatch")
        self.began = time.monotonic()
        self.worker: Worker | None = None
        """None: the worker still waits for Kafka."""
        self.is_stopping = False
        self._history = History()
        metrics.BUILD.labels(self.version).set(1)

    def stuck(self) -> str | None:
        """Return why the process is unhealthy; None: it is healthy."""
        if self.worker is None:
            return None
        if self.worker.engine.out_of_group is not None:
            return self.worker.engine.out_of_group
        silent_s = self.worker.seconds_since_poll()
        # In a rebalance, which waits for brokers that are away, there is nothing to poll.
        if silent_s is None or silent_s < STUCK_SECONDS or not self.worker.engine.wanted():
            return None
        return f"nothing was polled for {silent_s:.0f} s: restart the worker"

    def not_ready(self) -> str | None:
        """Return why the worker isn't ready for work; None: it is."""
        if self.is_stopping:
            return "stopping"
        if self.worker is None:
            return f"waiting for Kafka at {self.settings.kafka_bootstrap_servers}"
        engine = self.worker.engine
        if engine.is_ready:
            return None
        if engine.phase in {Phase.TAKING_OVER, Phase.RECOVERING}:
            return f"restoring the state, {engine.restored:.0%} done"
        return f"waiting for group {self.settings.group} to assign partitions"

    def rebalances(self) -> int:
        """Return how many assignments this worker has had."""
        return self.worker.engine.rebalances if self.worker else 0

    def partitions(self) -> dict[str, list[int]]:
        """Return the assigned partitions of each topic."""
        found: dict[str, list[int]] = {}
        for tp in sorted(self.worker.engine.assigned) if self.worker else ():
            found.setdefault(tp.topic, []).append(tp.partition)
        return found

    def holds(self) -> list[HoldView]:
        """Return the present holds of this worker's channels, each once."""
        senders = self.worker.senders if self.worker else ()
        return merged(hold for sender in senders for hold in sender.holds())

    def lags(self) -> list[tuple[str, int, int, float]]:
        """Return (topic, partition, records behind, seconds behind) of each partition; set the
        metrics of lag."""
        metrics.LAG.clear()
        metrics.BEHIND_SECONDS.clear()
        rows = []
        for tp, lag in sorted(self.worker.engine.lags().items()) if self.worker else ():
            metrics.LAG.labels(tp.topic, tp.partition).set(lag.records)
            metrics.BEHIND_SECONDS.labels(tp.topic, tp.partition).set(lag.seconds)
            rows.append((tp.topic, tp.partition, lag.records, lag.seconds))
        return rows

    def sample(self) -> None:
        """Take a sample for the history."""
        behind: Counter[str] = Counter()
        for topic, _, records, _ in self.lags():
            behind[topic] += records
        folded = {labels[0]: value for labels, value in counted(metrics.RECORDS)}
        self._history.add(Sample(time.monotonic(), folded, behind))

    def topics(self) -> list[TopicView]:
        """Return how far each topic is read: topics of the contract first, then internal ones."""
        folded = {labels[0]: value for labels, value in counted(metrics.RECORDS)}
        found: dict[str, list[tuple[int, float]]] = {}
        for topic, _, records, seconds in self.lags():
            found.setdefault(topic, []).append((records, seconds))
        internal = {topic.name for topic in self.settings.topics.internal()}
        return [
            TopicView(
                topic,
                len(rows),
                int(folded.get(topic, 0)),
                self._history.per_second(topic),
                sum(records for records, _ in rows),
                max(seconds for _, seconds in rows),
                sparkline(self._history.lags(topic)),
            )
            for topic, rows in sorted(found.items(), key=lambda one: (one[0] in internal, one[0]))
        ]

    def providers(self) -> list[ProviderView]:
        """Return the state of Redis, WeChat and the SMS gateway, as far as sending has shown it."""
        senders = self.worker.senders if self.worker else ()
        if any(sender.store_is_away for sender in senders):
            redis = ProviderView("Redis", False, "doesn't answer: messages wait")
        else:
            redis = ProviderView("Redis", True if self.worker else None, "in use")
        held = {hold.channel: hold for hold in self.holds() if hold.scope is None}
        skipped = {
            "wechat": "skipped: not set up" if self.settings.missing_to_send_wechat() else None,
            "sms": "skipped: no gateway is set" if self.settings.sms_url is None else None,
        }
        found = [redis]
        for channel, name in (("wechat", "WeChat"), ("sms", "SMS")):
            hold, why_not = held.get(channel), skipped[channel]
            if why_not is not None:
                found.append(ProviderView(name, None, why_not))
            elif hold is not None:
                found.append(ProviderView(name, False, f"on hold: {hold.reason}"))
            else:
                found.append(ProviderView(name, True, "open"))
        return found

    def console_address(self) -> str:
        """Return the console's address, as far as the settings have it."""
        host = self.settings.console_host.strip("[]")
        host = "localhost" if host in {"0.0.0.0", "::"} else host  # noqa: S104 (is compared)
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.settings.console_port}/"

    def waiting(self) -> dict[str, int]:
        """Return channel → number of messages that are begun and not finished."""
        return {labels[0]: int(value) for labels, value in counted(PENDING)}

    def token_s(self) -> float | None:
        """Return for how many seconds the WeChat token is still valid; None: there is none."""
        return counted(TOKEN_SECONDS)[0][1] or None

    def settings_shown(self) -> list[tuple[str, str, bool]]:
        """Return (variable, value, is it not the default?) of every setting; secrets masked."""
        fields = type(self.settings).model_fields
        chosen = {
            variable(name): str(getattr(self.settings, name)) != str(field.default)
            for name, field in fields.items()
        }
        return [(name, value, chosen[name]) for name, value in self.settings.shown().items()]

    def warnings(self) -> list[str]:
        """Return a line for each thing that doesn't work because of missing settings."""
        said = []
        missing = self.settings.missing_to_send_wechat()
        if missing:
            said.append(f"WeChat messages are skipped: set {', '.join(missing)}")
        if self.settings.sms_url is None:
            said.append("SMS are skipped: set DIALWATCH_SMS_URL")
        return said


def counted(metric: MetricWrapperBase) -> list[tuple[tuple[str, ...], float]]:
    """Return (label values, value) of a metric, in the order of the label values."""
    rows = [
        (tuple(sample.labels.values()), sample.value)
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    return sorted(rows)

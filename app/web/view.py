"""What the web server may ask of the worker it belongs to. Never waits, never fails.

It exists before the worker does, so that operators can see what a start is waiting for.
"""

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from agents.send import HoldView
from app.settings import Settings
from streams import metrics

if TYPE_CHECKING:
    from app.main import Worker

# Faust's longest poll interval; nothing polled for longer means that the reading hangs.
STUCK_SECONDS = 300.0


class WorkerView:
    """One worker, looked at from outside."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.version = version("dialwatch")
        self.began = time.monotonic()
        self.worker: Worker | None = None
        """None: it still waits for Kafka."""
        self.is_stopping = False
        metrics.BUILD.labels(self.version).set(1)

    def stuck(self) -> str | None:
        """Return why the process isn't well; None: it is."""
        if self.worker is None:
            return None
        silent_s = self.worker.seconds_since_poll()
        if silent_s is None or silent_s < STUCK_SECONDS:
            return None
        return f"nothing was polled for {silent_s:.0f} s: restart the worker"

    def not_ready(self) -> str | None:
        """Return why there is no work being done; None: there is."""
        if self.is_stopping:
            return "stopping"
        if self.worker is None:
            return f"waiting for Kafka at {self.settings.kafka_bootstrap_servers}"
        engine = self.worker.engine
        if engine.is_ready:
            return None
        if not engine.assigned:
            return f"waiting for group {self.settings.group} to assign partitions"
        return f"restoring the state, {metrics.RESTORED._value.get():.0%} done"

    def partitions(self) -> dict[str, list[int]]:
        """Return the assigned partitions of each topic."""
        found: dict[str, list[int]] = {}
        for tp in sorted(self.worker.engine.assigned) if self.worker else ():
            found.setdefault(tp.topic, []).append(tp.partition)
        return found

    def holds(self) -> list[HoldView]:
        """Return which channels send nothing now, and why."""
        seen = (
            [hold for sender in self.worker.senders for hold in sender.holds()]
            if (self.worker)
            else []
        )
        return list(dict.fromkeys(seen))

    def lags(self) -> list[tuple[str, int, int, float]]:
        """Return (topic, partition, records behind, seconds behind), and set the metrics."""
        metrics.LAG.clear()
        metrics.BEHIND_SECONDS.clear()
        rows = []
        for tp, lag in sorted(self.worker.engine.lags().items()) if self.worker else ():
            metrics.LAG.labels(tp.topic, tp.partition).set(lag.records)
            metrics.BEHIND_SECONDS.labels(tp.topic, tp.partition).set(lag.seconds)
            rows.append((tp.topic, tp.partition, lag.records, lag.seconds))
        return rows

    def warnings(self) -> list[str]:
        """Return what the settings leave out, one line each."""
        said = []
        missing = self.settings.missing_to_send_wechat()
        if missing:
            said.append(f"WeChat messages are skipped: set {', '.join(missing)}")
        if self.settings.sms_url is None:
            said.append("SMS are skipped: set DIALWATCH_SMS_URL")
        return said

"""What is counted of rules and of the sender, for Prometheus: labels from closed sets only."""

import re
from collections.abc import Iterable
from typing import Any, get_args

from prometheus_client import Counter, Gauge, Histogram

from streams.metrics import BUCKETS
from streams.records import (
    SCENARIOS,
    Account,
    Announcement,
    Call,
    Channel,
    Notification,
    Recharge,
    Status,
    Tick,
)
from streams.topics import Topics

# `channels.low_balance[...]` is counted as its field.
_END_OF_FIELD = re.compile(r"[:.\[]")

GIVEN_UP = "given up"
OTHER = "other"


class ReasonCounter(Counter):
    """Counts by reason, the last label. Of a set that is known, each reason is shown with 0 before
    it happens: a series that begins with 300 is no increase to Prometheus, and no alert fires."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._expected: set[tuple[str, ...]] = set()

    def expect(self, *labels: str, reasons: Iterable[str]) -> None:
        """Show these reasons with 0. Where `OTHER` is one, all that aren't expected count so."""
        for reason in reasons:
            super().labels(*labels, reason)
            self._expected.add((*labels, reason))

    def labels(self, *values: Any, **named: Any) -> "ReasonCounter":
        """See Counter. Takes the values in their order only."""
        other = (*values[:-1], OTHER)
        if values not in self._expected and other in self._expected:
            values = other
        return super().labels(*values, **named)


DEAD_LETTERS = ReasonCounter("dialwatch_dead_letters_total", "Invalid records", ["topic", "reason"])
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
DELIVERIES = ReasonCounter(
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
            DELIVERIES.expect(_channel, _status, reasons=[""])
    DELIVERIES.expect(_channel, "repeated", reasons=[""])
    EVENT_TO_SENT_SECONDS.labels(_channel)
    PROVIDER_SECONDS.labels(_channel)
    PENDING.labels(_channel)
for _scenario in SCENARIOS:
    SUPPRESSED.labels(_scenario, "no_channel")
SUPPRESSED.labels("low_balance", "told_today")


def expect_topics(topics: Topics) -> None:
    """Show the topics that are folded, with nothing invalid in any field."""
    for topic, record, more in (
        (topics.calls, Call, ()),
        (topics.recharges, Recharge, ()),
        (topics.accounts, Account, ()),
        (topics.announcements, Announcement, ()),
        (topics.ticks, Tick, ()),
        (topics.notifications, Notification, (GIVEN_UP,)),
    ):
        fields = record.__struct_fields__
        DEAD_LETTERS.expect(topic, reasons=["key", "value", *fields, *more, OTHER])
    for topic in (topics.line_segments, topics.fan_outs):  # our own, and valid
        DEAD_LETTERS.expect(topic, reasons=["value", OTHER])


def reason_of_letter(reason: str) -> str:
    """Return the label for why a record is a dead letter: the field, or that it was given up, for
    which the reason begins with the provider's code."""
    begin = _END_OF_FIELD.split(reason, maxsplit=1)[0]
    return GIVEN_UP if begin.removeprefix("-").isdigit() else begin


def expect_outcomes(channel: Channel, *, codes: Iterable[int], skipped: Iterable[str]) -> None:
    """Show a channel with nothing failed or skipped. `codes`: the provider's that are known;
    `skipped`: the reasons why nothing is sent."""
    DELIVERIES.expect(channel, "failed", reasons=[*map(str, codes), GIVEN_UP, OTHER])
    DELIVERIES.expect(channel, "skipped", reasons=skipped)

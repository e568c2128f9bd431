"""Reasons are counted under labels that are there, with 0, before anything goes wrong."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from agents import metrics
from agents.dead_letters import dead_letter
from app.channels import sms
from app.channels.wechat import channel
from app.channels.wechat.outcomes import RULES
from streams.decoding import InvalidRecordError
from streams.topics import Topics
from tests.rules.test_invalid import OPTIONAL, TOPICS, decode, with_field

# A prefix of their own: other tests count too.
ALL = Topics("counted.", "counted", 4)
WRONG = (
    b"[]", b"{}", b"1", b"-1", b"1.5", b'"?"', b'""', b"null", b'"-1.00"', b'["?"]', b'{"a": 1}',
    b'{"a": ["?"]}', b'{"low_balance": ["?"]}', b'"' + b"9" * 600 + b'"',
    b'"' + b"9" * 70_000 + b'"', rb'"\ud83d"', rb'{"\ud83d": 1}', b'"2019-01-30"', b"[[[[1]]]]",
)  # fmt: skip


def letters(topic: str, reason: str) -> float | None:
    labels = {"topic": topic, "reason": reason}
    return REGISTRY.get_sample_value("dialwatch_dead_letters_total", labels)


def bury(topic: str, reason: str) -> None:
    dead_letter(
        "dead-letters", topic=topic, partition=0, offset=0, key=None, value=None, reason=reason,
        at="",
    )  # fmt: skip


def deliveries(channel_name: str, status: str, reason: str) -> float | None:
    labels = {"channel": channel_name, "status": status, "reason": reason}
    return REGISTRY.get_sample_value("dialwatch_deliveries_total", labels)


@pytest.mark.parametrize("topic", TOPICS)
def test_whatever_is_wrong_with_a_record_was_shown_with_0(topic: str) -> None:
    metrics.expect_topics(ALL)
    name = f"{ALL.prefix}{topic}"
    sample = TOPICS[topic][1]
    reasons = set()
    for key in (None, b"", b"another", b"\xff"):
        for value in (None, b"{", json.dumps(sample.value).encode()):
            try:
                decode(topic, value, key)
            except InvalidRecordError as error:
                reasons.add(str(error))
    for field in {*sample.value, *OPTIONAL.get(topic, ()), "added_some_day"}:
        for text in WRONG:
            try:
                decode(topic, with_field(topic, field, text))
            except InvalidRecordError as error:
                reasons.add(str(error))
    counted = {metrics.reason_of_letter(reason) for reason in reasons}
    assert len(counted) >= (3 if topic == "ticks" else 6)
    assert {reason: letters(name, reason) for reason in counted} == dict.fromkeys(counted, 0.0)
    for reason in reasons:
        bury(name, reason)
    assert sum(letters(name, reason) or 0 for reason in counted) == len(reasons)
    assert letters(name, metrics.OTHER) == 0


def test_what_nobody_expected_counts_as_other() -> None:
    metrics.expect_topics(ALL)
    for reason in (
        "-1: system busy",
        "43101: user refuses",
        "499: HTTP 499",
        "given up: uncertain",
    ):
        bury(ALL.notifications, reason)
    assert letters(ALL.notifications, metrics.GIVEN_UP) == 4
    bury(ALL.line_segments, "of no field at all")
    assert letters(ALL.line_segments, metrics.OTHER) == 1

    metrics.expect_outcomes("sms", codes=sms.SMS_CODES, skipped=sms.SMS_SKIPS)
    metrics.expect_outcomes("wechat", codes=RULES, skipped=channel.WECHAT_SKIPS)
    before = deliveries("sms", "failed", metrics.OTHER)
    assert before is not None
    assert deliveries("sms", "failed", "422") is not None
    assert deliveries("wechat", "failed", "43101") is not None
    metrics.DELIVERIES.labels("sms", "failed", "499").inc()
    assert deliveries("sms", "failed", "499") is None
    assert deliveries("sms", "failed", metrics.OTHER) == before + 1


@pytest.mark.parametrize(
    ("module", "skips"), [(sms, sms.SMS_SKIPS), (channel, channel.WECHAT_SKIPS)]
)
def test_every_reason_to_skip_is_listed(module: object, skips: tuple[str, ...]) -> None:
    folder = Path(str(module.__file__))
    sources = [folder] if module is sms else folder.parent.glob("*.py")
    said = re.findall(
        r'(?:Skipped\(|Bar\([^"]*)"([^"]+)"\)', "\n".join(file.read_text() for file in sources)
    )
    assert set(said) == set(skips)

"""What machines read of the topics says what the worker does, and is what its format wants."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from app.describe import asyncapi, files, schema_of
from streams.topics import ContractTopic
from tests.installation import Published
from tests.rules.test_invalid import COMMAND, TOPICS
from tests.samples import account, announcement, call, recharge, ticks

ROOT = Path(__file__).parent.parent.parent
# The AsyncAPI initiative's own schema of 3.0.0 (Apache License 2.0), as its package has it.
ASYNCAPI = json.loads((Path(__file__).parent / "asyncapi-3.0.0.json").read_text())


def test_the_files_are_made_from_the_records_as_they_are() -> None:
    for name, text in files(version("dialwatch")).items():
        said = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert said == text, f"docs/{name} is old: make describe"


def test_the_document_is_asyncapi_3() -> None:
    jsonschema.Draft7Validator(ASYNCAPI).validate(asyncapi("1"))


def test_a_document_that_is_none_is_refused() -> None:
    wrong = asyncapi("1")
    wrong["operations"]["ticks"]["action"] = "look at"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(ASYNCAPI).validate(wrong)


def test_every_topic_of_the_contract_is_described() -> None:
    assert set(asyncapi("1")["channels"]) == {topic.value for topic in ContractTopic}


def validator(topic: str) -> jsonschema.Draft202012Validator:
    schema = schema_of(ContractTopic(topic))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


VALID: list[Published] = [
    account("a"),
    account("a", openid=None, phone=None, balance_threshold="10", expires_at=None, x=1),
    account("a", intent_classes=["A", "E"], channels={"low_balance": ["sms"], "x": 1}),
    call("a", 0),
    call("a", 999, balance="-0.5", duration_s=1.5, error="busy", ended_at="2019-01-30t15:52:60z"),
    recharge("a", "r", amount="0.01", completed_at="2019-01-30T15:52:10.123456789+08:00"),
    announcement("n", kind="anything"),
    *ticks("2019-01-30T15:52:10Z", 1),
    Published("notifications", "acme", COMMAND),
]


@pytest.mark.parametrize("record", VALID, ids=lambda record: record.topic)
def test_a_valid_record_fits_its_schema_and_its_decoder(record: Published) -> None:
    decode, _ = TOPICS[record.topic]
    key = record.key.encode() if isinstance(record.key, str) else record.key
    decode(key, json.dumps(record.value).encode())
    validator(record.topic).validate(record.value)


@pytest.mark.parametrize(
    ("record", "field", "wrong"),
    [
        (call("a", 0), "result", "G"),
        (call("a", 0), "batch_size", 0),
        (call("a", 0), "batch_size", 1.5),
        (call("a", 0), "batch_index", -1),
        (call("a", 0), "submitted_at", "2019-01-30 15:52:10"),
        (call("a", 0), "ended_at", "2019-01-30T15:52:10"),
        (call("a", 0), "balance", "1.234"),
        (call("a", 0), "duration_s", -1),
        (call("a", 0), "phone", None),
        (recharge("a", "r"), "amount", "0.00"),
        (recharge("a", "r"), "amount", "-1"),
        (recharge("a", "r"), "balance", 5),
        (account("a"), "intent_classes", ["F"]),
        (account("a"), "channels", {"low_balance": ["fax"]}),
        (announcement("n"), "title", 1),
        (ticks("x", 1)[0], "at", "noon"),
        (Published("notifications", "acme", COMMAND), "channel", "fax"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, Published) else value.topic,
)
def test_what_the_schema_refuses_the_worker_refuses(
    record: Published, field: str, wrong: Any
) -> None:
    value = record.value | {field: wrong}
    decode, _ = TOPICS[record.topic]
    key = record.key.encode() if isinstance(record.key, str) else record.key
    with pytest.raises(ValueError, match=field):
        decode(key, json.dumps(value).encode())
    with pytest.raises(jsonschema.ValidationError):
        validator(record.topic).validate(value)


@pytest.mark.parametrize("topic", ["call-records", "recharges", "accounts", "announcements"])
def test_each_required_field_is_required_by_both(topic: str) -> None:
    decode, sample = TOPICS[topic]
    key = str(sample.key).encode()
    for field in schema_of(ContractTopic(topic))["required"]:
        value = {name: one for name, one in sample.value.items() if name != field}
        with pytest.raises(ValueError, match=f"^{field}: is missing"):
            decode(key, json.dumps(value).encode())

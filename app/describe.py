"""Machine-readable descriptions of the topics: AsyncAPI 3, and a JSON Schema for each input topic.

    python -m app.describe docs

writes `asyncapi.json` and `schemas/TOPIC.json` there. A test compares them with the records, so it
fails where a record changed without its description. Rules that JSON Schema can't express (a key
equals a field, a length in bytes) are in the descriptions; `dialwatch check` checks them.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from streams.records import (
    Account,
    Announcement,
    Call,
    Delivery,
    InboxMessage,
    Notification,
    Recharge,
    Tick,
    WechatEvent,
)
from streams.topics import ContractTopic, Topics

_TIME = {
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$",
    "description": "RFC 3339 with an offset.",
}
_MONEY = {
    "pattern": r"^-?\d{1,15}(\.\d{1,2})?$",
    "description": "Yuan as a decimal string, at most two decimals.",
}
_POSITIVE = {
    "pattern": r"^(?!0+(\.0{1,2})?$)\d{1,15}(\.\d{1,2})?$",
    "description": "Yuan as a decimal string above 0, at most two decimals.",
}

_FIELDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("submitted_at", "ended_at", "completed_at", "published_at", "expires_at", "at"), _TIME
    ),
    **dict.fromkeys(("occurred_at", "created_at"), _TIME),
    **dict.fromkeys(("balance", "balance_threshold"), _MONEY),
    "amount": _POSITIVE,
    "batch_index": {"description": "This number's place in the batch: below batch_size."},
    "batch_size": {"description": "Numbers in the batch; the same in all of its records."},
}
"""Field name → rules that the field's type doesn't express. A name means the same everywhere."""

_LONGEST: dict[str, int] = {
    **dict.fromkeys(("call_id", "account_id", "line_id", "recharge_id", "announcement_id"), 512),
    **dict.fromkeys(("scenario", "kind", "template_id", "app_id"), 512),
    "notification_id": 64,
    **dict.fromkeys(("phone", "openid"), 128),
    **dict.fromkeys(("name", "title", "url", "page_path"), 2048),
}
"""The longest texts in bytes of UTF-8. A schema counts characters, which are never more."""
_LONGEST_CONTENT = {"Announcement": 524_288, "Notification": 65_536}


class _Described(NamedTuple):
    record: type[Struct]
    key: str
    """What the key is, in words."""
    is_input: bool


_TOPICS: dict[ContractTopic, _Described] = {
    ContractTopic.CALL_RECORDS: _Described(Call, "account_id", True),
    ContractTopic.RECHARGES: _Described(Recharge, "account_id", True),
    ContractTopic.ACCOUNTS: _Described(
        Account, "account_id; compacted: a null value deletes the account", True
    ),
    ContractTopic.ANNOUNCEMENTS: _Described(Announcement, "announcement_id", True),
    ContractTopic.TICKS: _Described(Tick, "none", True),
    ContractTopic.NOTIFICATIONS: _Described(
        Notification, "account_id (the openid where account_id is null)", True
    ),
    ContractTopic.INBOX_MESSAGES: _Described(InboxMessage, "account_id", False),
    ContractTopic.DELIVERIES: _Described(
        Delivery, "account_id (the openid where account_id is null)", False
    ),
    ContractTopic.WECHAT_EVENTS: _Described(WechatEvent, "openid", False),
}

RECORDS = {topic: described.record for topic, described in _TOPICS.items()}
"""Topic → the record that its values are. Dead letters keep the value that they had."""


def schema_of(topic: ContractTopic) -> dict[str, Any]:
    """Return the self-contained JSON Schema (2020-12) of one topic's values."""
    described = _TOPICS[topic]
    (reference,), components = msgspec.json.schema_components(
        [described.record], ref_template="#/$defs/{name}"
    )
    name = reference["$ref"].rpartition("/")[2]
    for component, said in components.items():
        _tell_more(component, said)
    schema: dict[str, Any] = components.pop(name)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = topic.value
    schema["description"] += f" Key: {described.key}. Unknown fields are ignored."
    if components:
        schema["$defs"] = components
    return schema


def _tell_more(name: str, schema: dict[str, Any]) -> None:
    for field, said in schema.get("properties", {}).items():
        known = dict(_FIELDS.get(field, {}))
        longest = _LONGEST.get(field) or (field == "content" and _LONGEST_CONTENT.get(name))
        if longest:
            known["maxLength"] = longest
            known.setdefault("description", f"At most {longest} bytes of UTF-8.")
        for type_ in said.get("anyOf", [said]):
            if type_.get("type") != "null":
                type_.update(known)


def asyncapi(version: str) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of every topic of the contract."""
    names = Topics("", "dialwatch", 1)
    channels, operations, messages = {}, {}, {}
    for topic in ContractTopic:
        described = _TOPICS.get(topic)
        message: dict[str, Any] = {"name": topic.value}
        if described is None:
            message |= {
                "contentType": "application/octet-stream",
                "summary": "A record that was invalid or given up: its key and value as they came, "
                "with where it came from and why in headers.",
                "headers": _DEAD_LETTER_HEADERS,
            }
        else:
            message |= {
                "contentType": "application/json",
                "summary": described.record.__doc__,
                "payload": {
                    "schemaFormat": "application/schema+json;version=draft-07",
                    "schema": _inlined(schema_of(topic)),
                },
                "bindings": {"kafka": {"key": {"type": "string", "description": described.key}}},
            }
        messages[topic.value] = message
        channels[topic.value] = {
            "address": names.name(topic),
            "messages": {topic.value: {"$ref": f"#/components/messages/{topic.value}"}},
        }
        is_input = described is not None and described.is_input
        operations[topic.value] = {
            "action": "receive" if is_input else "send",
            "channel": {"$ref": f"#/channels/{topic.value}"},
            "messages": [{"$ref": f"#/channels/{topic.value}/messages/{topic.value}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "dialwatch",
            "version": version,
            "description": "What dialwatch receives and sends over Kafka. Topic names may have a "
            "prefix (DIALWATCH_TOPIC_PREFIX). `notifications` is received and sent.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with each reference replaced by its definition: in AsyncAPI a payload can't
    refer to its own `#/$defs`."""
    definitions = schema.pop("$defs", {})
    schema.pop("$schema")

    def resolve(said: Any) -> Any:
        if isinstance(said, dict):
            reference = said.get("$ref")
            if reference is not None:
                return resolve(definitions[reference.rpartition("/")[2]])
            return {name: resolve(one) for name, one in said.items()}
        return [resolve(one) for one in said] if isinstance(said, list) else said

    inlined: dict[str, Any] = resolve(schema)
    return inlined


_DEAD_LETTER_HEADERS = {
    "type": "object",
    "required": [f"dialwatch.{one}" for one in ("topic", "partition", "offset", "reason", "at")],
    "properties": {
        "dialwatch.topic": {"type": "string", "description": "The topic's real name."},
        "dialwatch.partition": {"type": "string"},
        "dialwatch.offset": {"type": "string"},
        "dialwatch.reason": {"type": "string", "description": "The field and what is wrong."},
        "dialwatch.at": _TIME | {"type": "string"},
        "dialwatch.attempts": {
            "type": "string",
            "description": "How often it was a dead letter, from the second time on.",
        },
        "dialwatch.truncated": {
            "type": "string",
            "description": "The original's length in bytes, where it was cut.",
        },
    },
}


def files(version: str) -> dict[str, str]:
    """Return the description's files: path below `docs/` → content."""
    documents = {"asyncapi.json": asyncapi(version)} | {
        f"schemas/{topic.value}.json": schema_of(topic)
        for topic, described in _TOPICS.items()
        if described.is_input
    }
    return {
        name: json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        for name, document in documents.items()
    }


def main() -> None:
    """Write the files into the folder that the command line names."""
    from importlib.metadata import version  # noqa: PLC0415 (only to write)

    folder = Path(sys.argv[1])
    for name, text in files(version("dialwatch")).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

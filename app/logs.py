"""Logs on stderr, one line each, with the time and nothing secret: for people, or as JSON.

A line of JSON has what is known of a record under the field's names (`FIELDS`): who logs gives them
as `extra`.
"""

import logging
import re
import sys
import time
from datetime import datetime
from typing import Any, Literal

import msgspec

FIELDS = ("topic", "partition", "offset", "notification_id")

# They would log whole URLs (with WeChat's token in them), or every step of a rebalance.
_QUIET = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "aiokafka": logging.ERROR,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "asyncio": logging.WARNING,
}


# What `streams/kafka/reconnecting.py` says in fewer words.
_SAID_ELSEWHERE = (
    "Unable connect to",
    "Unable to update metadata",
    "Unable to request metadata",
    "NodeNotReadyError",
    "KafkaConnectionError",
    "Heartbeat session expired",
)
_SAY_AGAIN_SECONDS = 60.0
_SERVICE = re.compile(r"\[\^-*\w+(: [^\]]*)?\]:? ")


class _FewWords(logging.Filter):
    """Lets each thing that a library says in a loop through once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(("aiokafka", "opentelemetry")):
            return True
        if any(words in record.getMessage() for words in _SAID_ELSEWHERE):
            return False
        now, kind = time.monotonic(), f"{record.name} {record.msg}"
        if now - self._said.get(kind, -_SAY_AGAIN_SECONDS) < _SAY_AGAIN_SECONDS:
            return False
        self._said[kind] = now
        return True


class _OwnWords(logging.Filter):
    """Drops what Faust's services say of themselves ("[^--Consumer]: Starting..."), whose loggers
    are ours where their classes are; of its warnings only the words are kept."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = _SERVICE.match(record.getMessage())
        if found is None:
            return True
        record.msg, record.args = record.getMessage()[found.end() :], None
        return record.levelno >= logging.WARNING


class _Text(logging.Formatter):
    """One line for people, and behind it what is known, as the field writes it: `offset=7`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        said = {name: vars(record).get(name) for name in FIELDS}
        known = "".join(
            f" {name}={value}"
            for name, value in said.items()
            if value is not None and not re.search(rf"\b{re.escape(str(value))}\b", record.message)
        )
        return super().formatMessage(record) + known


class _Json(logging.Formatter):
    """One object a line: `time` (RFC 3339), `level`, `logger`, `message`, and what is known."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone()
        said: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {name: vars(record)[name] for name in FIELDS if vars(record).get(name) is not None}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said, enc_hook=str).decode()


def set_up_logs(*, is_verbose: bool = False, log_format: Literal["text", "json"] = "text") -> None:
    """Send the program's log to stderr; `is_verbose` adds the steps and tracebacks of it."""
    logging.basicConfig(
        level=logging.DEBUG if is_verbose else logging.INFO,
        stream=sys.stderr,
        force=True,
    )
    lines = _Text("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Json() if log_format == "json" else lines)
        if not is_verbose:
            handler.addFilter(_FewWords())
            handler.addFilter(_OwnWords())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


def is_json() -> bool:
    """Whether the log is JSON: then what else a program says on stderr is a line of it too."""
    return any(isinstance(one.formatter, _Json) for one in logging.getLogger().handlers)

"""The log on stderr: one line for each message, with the time and without secrets, as text or JSON.

A line of JSON also has the fields of a record (`FIELDS`), which the caller gives as `extra`.
"""

import logging
import re
import sys
import time
from datetime import datetime
from typing import Any, Literal

import msgspec

FIELDS = ("topic", "partition", "offset", "notification_id")

# Loggers of libraries that would log whole URLs (with WeChat's token), or each step of a rebalance.
_QUIET = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "aiokafka": logging.ERROR,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "asyncio": logging.WARNING,
}


# Messages for which `streams/kafka/reconnecting.py` logs fewer and shorter lines.
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
    """Lets each message that a library repeats in a loop through once a minute."""

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
    """Drops the messages of Faust's services about themselves ("[^--Consumer]: Starting..."), which
    go to our loggers where the classes are ours. Of Faust's warnings it keeps the text only."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = _SERVICE.match(record.getMessage())
        if found is None:
            return True
        record.msg, record.args = record.getMessage()[found.end() :], None
        return record.levelno >= logging.WARNING


class _Text(logging.Formatter):
    """Formats a line for people, with the fields behind the message: `offset=7`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        said = {name: vars(record).get(name) for name in FIELDS}
        known = "".join(
            f" {name}={value}"
            for name, value in said.items()
            if value is not None and not re.search(rf"\b{re.escape(str(value))}\b", record.message)
        )
        return super().formatMessage(record) + known


class _Json(logging.Formatter):
    """Formats a JSON object: `time` (RFC 3339), `level`, `logger`, `message`, and the fields."""

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
    """Send the program's log to stderr. `is_verbose`: with each step, and with tracebacks."""
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
    """Is the log JSON? Then everything else on stderr must be a line of JSON too."""
    return any(isinstance(one.formatter, _Json) for one in logging.getLogger().handlers)

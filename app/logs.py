"""Logs for people: one line each, on stderr, with the time and nothing secret."""

import logging
import sys
import time

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


class _FewWords(logging.Filter):
    """Lets each thing that aiokafka says in a loop through once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        if any(words in record.getMessage() for words in _SAID_ELSEWHERE):
            return False
        now, kind = time.monotonic(), f"{record.name} {record.msg}"
        if now - self._said.get(kind, -_SAY_AGAIN_SECONDS) < _SAY_AGAIN_SECONDS:
            return False
        self._said[kind] = now
        return True


def set_up_logs(*, is_verbose: bool = False) -> None:
    """Send the program's log to stderr; `is_verbose` adds the steps and tracebacks of it."""
    logging.basicConfig(
        level=logging.DEBUG if is_verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        stream=sys.stderr,
        force=True,
    )
    if not is_verbose:
        for handler in logging.getLogger().handlers:
            handler.addFilter(_FewWords())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)

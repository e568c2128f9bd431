"""Logs for people: one line each, on stderr, with the time and nothing secret."""

import logging
import sys

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


def set_up_logs(*, is_verbose: bool = False) -> None:
    """Send the program's log to stderr; `is_verbose` adds the steps and tracebacks of it."""
    logging.basicConfig(
        level=logging.DEBUG if is_verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        stream=sys.stderr,
        force=True,
    )
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)

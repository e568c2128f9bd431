"""What lists show of a command, read as leniently as the worker reads it, and how one is found
among millions by its id. Nothing else that a command says."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from streams.decoding import decode_notification
from streams.kafka.log_scan import Wanted

# An id is ASCII. Whoever doesn't write it as dialwatch does needs one of these escapes for it.
_ESCAPED = re.compile(rb"\\(?:u00[0-7]|/)")


class Cause(msgspec.Struct):
    """The cause's part that is shown."""

    call_id: Any = None  # in a command of another system a cause may be anything


class ShownCommand(msgspec.Struct):
    """A command's fields that are shown."""

    notification_id: str
    scenario: str
    channel: str
    occurred_at: str = ""
    account_id: str | None = None
    title: str | None = None
    cause: Cause | None = None


_decode = msgspec.json.Decoder(ShownCommand).decode


def read_command(key: bytes | None, value: bytes | None) -> ShownCommand:
    """Return a command, ours or another system's. Raises ValueError or RecursionError where it
    can't be read.

    What is refused at first is decoded as the worker does, who takes more: half a surrogate pair in
    a field that nobody reads.
    """
    try:
        return _decode(value or b"")
    except msgspec.DecodeError:
        return msgspec.convert(decode_notification(key, value), ShownCommand, from_attributes=True)


def bytes_of_ids(notification_ids: Iterable[str]) -> tuple[Wanted, ...]:
    """Return what a record with one of these ids contains, however its writer escapes texts: of
    others, records match too."""
    ids = b"|".join(re.escape(inside(one)) for one in notification_ids)
    return re.compile(rb'"notification_id"\s*:\s*"(?:%b)"' % ids), _ESCAPED


def inside(text: str) -> bytes:
    """Return a text's bytes inside of a JSON string, as dialwatch writes it."""
    return msgspec.json.encode(text)[1:-1]

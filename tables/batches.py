"""Batches: which indexes of a batch have a record, so that a repeat changes nothing.

The indexes are bits, in pages, so that a poll of a batch of a million numbers rewrites some
hundred bytes for each page it touched and not a megabyte.
"""

from enum import Enum, auto
from struct import Struct as Packer

from msgspec import Struct

PAGE_BITS = 2048  # a power of two
_IN_PAGE = PAGE_BITS - 1
_pack_instant = Packer(">q").pack
_pack_page = Packer(">Q").pack
INSTANT_BYTES = 8
PAGE_BYTES = 8


class Batch(Struct, array_like=True):
    """One batch and its first page of bits. Persisted: append fields only, with defaults."""

    size: int
    seen: int = 0
    last: int = 0
    """Latest instant at which a call of it ended."""
    tick: int = 0
    """The clock's last tick when a call of it was counted."""
    bits: bytearray = bytearray()


class Page(Struct, array_like=True):
    """A further page of a batch's bits."""

    bits: bytearray = bytearray()


class Seen(Enum):
    """What a record is to its batch."""

    NEW = auto()
    REPEATED = auto()
    COMPLETING = auto()
    """New, and the last one that was missing."""


NEW, REPEATED, COMPLETING = Seen  # looking an enum's member up costs more than the rule


def instant_key(submitted: int) -> bytes:
    """Return a batch's instant as it stands in keys: 8 bytes, so that keys can't run together."""
    return _pack_instant(submitted)


def page_key(batch_key: bytes, page: int) -> bytes:
    """Return the key of a further page (1, 2, …); the first is in the batch itself."""
    return batch_key + _pack_page(page)


def is_forgotten(batch: Batch, clock: int, retention: int) -> bool:
    """Has a tick found the batch's last call longer ago than the retention?

    The tick must have come after the batch's last change: a tick that passed before can't have
    found it. (All in microseconds.)
    """
    return clock > batch.tick and clock - batch.last > retention


def fold(batch: Batch, page: Page | None, index: int, ended: int, clock: int) -> Seen:
    """Mark one index. `page`: the index's page, None where it is the first."""
    if batch.seen == batch.size:
        return REPEATED  # a complete batch needs no bits
    bits = batch.bits if page is None else page.bits
    byte = (index & _IN_PAGE) >> 3
    bit = 1 << (index & 7)
    if byte >= len(bits):
        bits.extend(bytes(byte + 1 - len(bits)))
    elif bits[byte] & bit:
        return REPEATED
    bits[byte] |= bit
    batch.seen += 1
    batch.tick = clock
    batch.last = max(batch.last, ended)
    if batch.seen < batch.size:
        return NEW
    batch.bits = bytearray()
    return COMPLETING


def page_count(batch: Batch) -> int:
    """How many pages of bits a batch has at most, the first included."""
    return -(-batch.size // PAGE_BITS)

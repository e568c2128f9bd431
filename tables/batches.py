"""Batches: which indexes of a batch have a record, so that a repeat changes nothing.

The indexes are bits, in pages, so that a poll of a batch of a million numbers rewrites some
hundred bytes for each page it touched and not a megabyte.
"""

from enum import Enum, auto
from struct import Struct as Packer

from msgspec import Struct

PAGE_BITS = 2048  # a power of two
_IN_PAGE = PAGE_BITS - 1
_SPARE_BYTES = 4  # numbers are called roughly in order: don't grow for every eighth
_pack_instant = Packer(">q").pack
_pack_page = Packer(">qQ").pack


class Batch(Struct, array_like=True, gc=False):
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


class Parked(Struct, array_like=True):
    """The batches of an account that have records of their own: instants that name them."""

    submitted: list[int] = []


def batch_key(account: bytes, submitted: int) -> bytes:
    """Return a parked batch's key. The instant's fixed width keeps keys from running together."""
    return account + _pack_instant(submitted)


def page_key(account: bytes, submitted: int, page: int) -> bytes:
    """Return the key of a further page (1, 2, …); the first is in the batch itself."""
    return account + _pack_page(submitted, page)


def is_forgotten(batch: Batch, clock: int, retention: int) -> bool:
    """Has a tick found the batch's last call longer ago than the retention?

    The tick must have come after the batch's last change: a tick that passed before can't have
    found it. (All in microseconds.)
    """
    return clock > batch.tick and clock - batch.last > retention


def fold(batch: Batch, page: Page | None, index: int, ended: int, clock: int) -> Seen:
    """Mark one index. `page`: the index's page, None where it is the first."""
    seen = batch.seen
    if seen == batch.size:
        return REPEATED  # a complete batch needs no bits
    bits = batch.bits if page is None else page.bits
    byte = (index & _IN_PAGE) >> 3
    bit = 1 << (index & 7)
    try:
        marked = bits[byte]
    except IndexError:
        marked = 0
        bits.extend(bytes(byte + _SPARE_BYTES - len(bits)))
    if marked & bit:
        return REPEATED
    bits[byte] = marked | bit
    batch.seen = seen = seen + 1
    batch.tick = clock
    if ended > batch.last:  # noqa: PLR1730  # max() would double the rule's cost
        batch.last = ended
    if seen < batch.size:
        return NEW
    batch.bits = bytearray()
    return COMPLETING


def page_count(batch: Batch) -> int:
    """How many pages of bits a batch has at most, the first included."""
    return -(-batch.size // PAGE_BITS)

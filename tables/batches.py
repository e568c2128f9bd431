"""Batches: which indexes of a batch have a record, so that a repeat changes nothing.

The indexes are bits, in pages, so that a poll of a batch of a million numbers rewrites some
hundred bytes for each page it touched and not a megabyte.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from enum import Enum, auto
from itertools import islice
from struct import Struct as Packer
from typing import NamedTuple

from msgspec import Struct

from streams.times import format_instant
from tables.explained import Explained, Sentence

PAGE_BITS = 2048  # a power of two
_IN_PAGE = PAGE_BITS - 1
_SPARE_BYTES = 4  # numbers are called roughly in order: don't grow for every eighth
_INSTANT_BYTES = 8  # and so many a page's number has
_pack_instant = Packer(">q").pack
_unpack_instant = Packer(">q").unpack
_pack_page = Packer(">qQ").pack


class Batch(Struct, array_like=True, gc=False):
    """One batch and its first page of bits. Persisted: append fields only, with defaults."""

    size: int
    seen: int = 0
    last: int = 0
    """Latest instant at which a call of it ended."""
    tick: int = 0
    """The clock's mark when a call of it was counted."""
    bits: bytearray = bytearray()


class Clock(NamedTuple):
    """How far a partition's ticks have come."""

    tick: int = 0
    """The latest, as an instant, 0: none."""
    mark: int = 0
    """Grows with every tick, also with one that is equal to the latest: a greater mark says that a
    tick has come since. It is the tick itself, but for some microseconds after equal ones."""


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
    """The batches of an account that have records of their own. Persisted: append fields only."""

    submitted: list[int] = []
    """Instants that name the latest of them; 0.1.0 listed all."""
    unlisted: int = 0
    """How many more there are: who needs them walks through the keys."""


MOST_LISTED = 64


def batch_key(account: bytes, submitted: int) -> bytes:
    """Return a parked batch's key. The instant's fixed width keeps keys from running together."""
    return account + _pack_instant(submitted)


def submitted_of(batch: bytes) -> int:
    """Return the instant in a batch key."""
    submitted: int = _unpack_instant(batch[-_INSTANT_BYTES:])[0]
    return submitted


def account_of(batch: bytes) -> bytes:
    """Return whose a batch key is."""
    return batch[:-_INSTANT_BYTES]


def batch_of_page(page: bytes) -> bytes:
    """Return the batch key that a page key begins with."""
    return page[:-_INSTANT_BYTES]


def list_parked(parked: Parked, submitted: int) -> None:
    """Note a batch that has a record of its own from now on."""
    parked.submitted.append(submitted)
    over = len(parked.submitted) - MOST_LISTED
    if over > 0:
        del parked.submitted[:over]
        parked.unlisted += over


def unlist_parked(parked: Parked, submitted: int) -> bool:
    """Note that a batch has none any more; has no batch any?"""
    if submitted in parked.submitted:
        parked.submitted.remove(submitted)
    else:
        parked.unlisted = max(parked.unlisted - 1, 0)
    return not parked.submitted and not parked.unlisted


def page_key(account: bytes, submitted: int, page: int) -> bytes:
    """Return the key of a further page (1, 2, …); the first is in the batch itself."""
    return account + _pack_page(submitted, page)


def is_forgotten(batch: Batch, clock: Clock, retention: int) -> bool:
    """Has a tick found the batch's last call longer ago than the retention (in microseconds)?

    The tick must have come after the batch's last change: a tick that passed before can't have
    found it.
    """
    return clock.mark > batch.tick and clock.tick - batch.last > retention


def fold(batch: Batch, page: Page | None, index: int, ended: int, mark: int) -> Seen:
    """Mark one index. `page`: the index's page, None where it is the first; `mark`: the clock's."""
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
    if batch.tick != mark:  # setting a field costs three times as much as reading it
        batch.tick = mark
    if ended > batch.last:  # noqa: PLR1730  # max() would double the rule's cost
        batch.last = ended
    if seen < batch.size:
        return NEW
    batch.bits = bytearray()
    return COMPLETING


def page_count(batch: Batch) -> int:
    """How many pages of bits a batch has at most, the first included."""
    return -(-batch.size // PAGE_BITS)


class BatchView(NamedTuple):
    """A batch that is remembered, as people look at it."""

    submitted: int
    """Names the batch."""
    batch: Batch
    missing: list[int]
    """The first indexes without a record."""


MOST_MISSING = 20
_MOST_EXPLAINED = 5


def missing(batch: Batch, page_of: Callable[[int], Page | None]) -> list[int]:
    """Return the first indexes of a batch that have no record. `page_of`: its further pages."""
    if batch.seen == batch.size:
        return []
    return list(islice(_unmarked(batch, page_of), min(MOST_MISSING, batch.size - batch.seen)))


def _unmarked(batch: Batch, page_of: Callable[[int], Page | None]) -> Iterator[int]:
    for number in range(page_count(batch)):
        page = batch if number == 0 else page_of(number)
        bits = 0 if page is None else int.from_bytes(page.bits, "little")
        first = number * PAGE_BITS
        size = min(PAGE_BITS, batch.size - first)
        if bits != (1 << size) - 1:
            yield from (first + index for index in range(size) if not bits >> index & 1)


def explain(views: Sequence[BatchView], *, retention: int, zone: tzinfo) -> Explained:
    """Say what an account's batches are waiting for. `views`: oldest first."""
    waiting = [view for view in views if view.batch.seen < view.batch.size]
    if not waiting:
        because = [
            Sentence("没有进行中的任务。", "No batch is in progress.")
            if not views
            else Sentence("记得的任务都已完成。", "Every batch that is remembered is complete.")
        ]
        return Explained(None, None, because)
    because = [_waits(view, retention, zone) for view in waiting[:_MOST_EXPLAINED]]
    if len(waiting) > _MOST_EXPLAINED:
        more = len(waiting) - _MOST_EXPLAINED
        because.append(
            Sentence(f"另有{more}个任务进行中。", f"{more} more batches are in progress.")
        )
    first = waiting[0].batch
    return Explained(first.seen, first.size, because)


def _waits(view: BatchView, retention: int, zone: tzinfo) -> Sentence:
    batch, when = view.batch, format_instant(view.submitted, zone)
    listed = [str(index) for index in view.missing]
    more = batch.size - batch.seen - len(listed)
    zh, en = "、".join(listed), _joined(listed)
    if more:
        zh, en = f"{zh}等{more + len(listed)}个", f"{', '.join(listed)} and {more} more"
    until = format_instant(batch.last + retention, zone)
    which = "indexes" if len(listed) > 1 else "index"
    return Sentence(
        f"{when}创建的任务：{batch.size}通中有{batch.seen}通已有结果，序号{zh}缺少结果；"
        f"{until}前没有新的结果则不再等待。",
        f"The batch of {when}: {batch.seen} of {batch.size} have a record, {which} {en} missing; "
        f"it is given up if nothing more of it comes until {until}.",
    )


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))

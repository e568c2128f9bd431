"""All tables: what is remembered, under which key. Prefixes are persisted and never change.

`u` and `@` are the engine's (what is unfinished in an outbox, and how far sources are folded).
"""

from msgspec import Struct

from streams.engine.state import Table
from tables.batches import Batch, Page, Parked
from tables.customers import Customer
from tables.lines import LineAccounts, LineRun
from tables.recharges import Recharges
from tables.tallies import Tally


class PartitionClock(Struct, array_like=True):
    """How far a partition has come."""

    tick: int = 0
    """The latest tick, as an instant."""
    accounts_offset: int = -1
    """The offset of the last folded record of `accounts`, plus `accounts_base`."""
    accounts_base: int = 0
    """Added to offsets of `accounts`, so that they grow even when the topic is read again or was
    created anew: announcements go to accounts that came before them by this count."""
    is_checked: bool = False
    """Was the tick compared with its record's timestamp? 0.1.0 didn't do that."""
    repeats: int = 0
    """Added to the tick it is the clock's mark (see `tables/batches.py`)."""


class Announced(Struct, array_like=True):
    """An announcement that was told."""

    published: int = 0


CUSTOMERS = Table(b"a", Customer)  # account_id
TALLIES = Table(b"c", Tally)  # account_id
BATCHES = Table(b"b", Batch)  # account_id, instant (8 bytes); those that aren't in the tally
PARKED = Table(b"o", Parked)  # account_id
PAGES = Table(b"p", Page)  # account_id, instant (8 bytes), page (8 bytes)
LINES = Table(b"l", LineRun)  # line_id
LINE_ACCOUNTS = Table(b"m", LineAccounts)  # line_id, page (4 bytes)
RECHARGES = Table(b"r", Recharges)  # account_id
MORE_RECHARGES = Table(b"h", Recharges)  # account_id, first byte of the hashes
ANNOUNCED = Table(b"n", Announced)  # announcement_id
CLOCKS = Table(b"t", PartitionClock)  # nothing: one a partition

_BEHIND_THE_OWNER = {
    CUSTOMERS.prefix: 0,
    TALLIES.prefix: 0,
    BATCHES.prefix: 8,
    PARKED.prefix: 0,
    PAGES.prefix: 16,
    LINES.prefix: 0,
    LINE_ACCOUNTS.prefix: 4,
    RECHARGES.prefix: 0,
    MORE_RECHARGES.prefix: 1,
}
"""How many bytes of a key follow the id of its account or line."""

OWNED = _BEHIND_THE_OWNER.keys()
"""The prefixes of the tables whose values belong to an account or a line."""


def owner_of(prefix: bytes, key: bytes) -> bytes | None:
    """Return the account or line with which a value moves to another partition; None: it is its
    partition's own. (`ANNOUNCED` too: each partition remembers what it told.)"""
    behind = _BEHIND_THE_OWNER.get(prefix)
    return None if behind is None else key[: len(key) - behind]

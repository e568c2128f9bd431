"""All tables: what is remembered, under which key. Prefixes are persisted and never change.

`u` and `@` are the engine's (what is unfinished in an outbox, and how far sources are folded).
"""

from msgspec import Struct

from streams.engine.state import Table
from tables.batches import Batch, Page, Parked
from tables.customers import Customer
from tables.lines import LineRun
from tables.recharges import Recharges
from tables.tallies import Tally


class Clock(Struct, array_like=True):
    """How far a partition has come."""

    tick: int = 0
    """The latest tick, as an instant."""
    accounts_offset: int = -1
    """Of the last record of `accounts` that was folded, and `accounts_base`."""
    accounts_base: int = 0
    """What is added to an offset of `accounts`, so that it only grows, also where the topic is read
    again or was made anew: who came before an announcement is known by it."""


class Announced(Struct, array_like=True):
    """An announcement that was told."""

    published: int = 0


CUSTOMERS = Table(b"a", Customer)  # account_id
TALLIES = Table(b"c", Tally)  # account_id
BATCHES = Table(b"b", Batch)  # account_id, instant (8 bytes); those that aren't in the tally
PARKED = Table(b"o", Parked)  # account_id
PAGES = Table(b"p", Page)  # account_id, instant (8 bytes), page (8 bytes)
LINES = Table(b"l", LineRun)  # line_id
RECHARGES = Table(b"r", Recharges)  # account_id
ANNOUNCED = Table(b"n", Announced)  # announcement_id
CLOCKS = Table(b"t", Clock)  # nothing: one a partition

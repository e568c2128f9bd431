"""What outlives a deployment is read by the next one: the bytes of state and of internal records.

A value here changes only together with a way to read what stands in Kafka.
"""

from typing import Any

import pytest
from msgspec.structs import replace

from agents import announcements, calls, lines
from streams.engine.outbox import UNFINISHED, _Unfinished
from streams.engine.positions import POSITIONS, Position
from streams.engine.state import Table
from streams.records import Announcement
from tables import state_tables
from tables.balances import Balance
from tables.batches import Batch, Page, Parked
from tables.customers import Customer
from tables.lines import LineAccounts, LineCall, LineRun, LineSegment
from tables.recharges import Recharges
from tables.runs import Run
from tables.state_tables import Announced, PartitionClock
from tables.tallies import Tally

SAMPLES: dict[str, tuple[Table[Any], Any, str]] = {
    "CUSTOMERS": (
        state_tables.CUSTOMERS,
        Customer("云帆", "o1", None, "AB", 5000, 7, {"low_balance": ["sms"]}, 3, [8]),
        "6199a6e4ba91e5b886a26f31c0a24142cd13880781ab6c6f775f62616c616e636591a3736d73039108",
    ),
    "TALLIES": (
        state_tables.TALLIES,
        Tally(
            Run(2, "c1", 7, 8),
            5,
            Batch(9, 1, 7, 8, bytearray(b"\x01")),
            Balance(4, (20, 21), ((5, 9),)),
            "AB",
            5000,
        ),
        "63969402a263310708059509010708c40101930492141591920509a24142cd1388",
    ),
    "BATCHES": (
        state_tables.BATCHES,
        Batch(9, 1, 7, 8, bytearray(b"\x01")),
        "629509010708c40101",
    ),
    "PARKED": (
        state_tables.PARKED,
        Parked([5, 6], 7),
        "6f9292050607",
    ),
    "PAGES": (
        state_tables.PAGES,
        Page(bytearray(b"\xff")),
        "7091c401ff",
    ),
    "LINES": (
        state_tables.LINES,
        LineRun(Run(1, "c1", 7, 8), {"acme": ["inbox"], "bob": None}, 2),
        "6c939401a26331070882a461636d6591a5696e626f78a3626f62c002",
    ),
    "LINE_ACCOUNTS": (
        state_tables.LINE_ACCOUNTS,
        LineAccounts({"acme": ["inbox"], "bob": None}),
        "6d9182a461636d6591a5696e626f78a3626f62c0",
    ),
    "MORE_RECHARGES": (
        state_tables.MORE_RECHARGES,
        Recharges(b"12345678"),
        "6891c4083132333435363738",
    ),
    "RECHARGES": (
        state_tables.RECHARGES,
        Recharges(b"12345678"),
        "7291c4083132333435363738",
    ),
    "ANNOUNCED": (
        state_tables.ANNOUNCED,
        Announced(7),
        "6e9107",
    ),
    "CLOCKS": (
        state_tables.CLOCKS,
        PartitionClock(7, 3, 2, True, 4),
        "7495070302c304",
    ),
    "POSITIONS": (
        POSITIONS,
        Position(9, b"0123456789abcdef", True),
        "409309c41030313233343536373839616263646566c3",
    ),
    "UNFINISHED": (
        UNFINISHED,
        _Unfinished(9, [4, 7]),
        "759209920407",
    ),
}
SEGMENT = "94a66c696e652d319294a26331a461636d6507c0c0039109"
SEGMENT_OF_0_1_0 = "92a66c696e652d319294a26331a461636d6507c0c0"
FAN_OUT = (
    "9485af616e6e6f756e63656d656e745f6964a26e31a46b696e64a775706772616465a57469746c65"
    "a174a7636f6e74656e74a163ac7075626c69736865645f6174b9323032362d30322d31345431303a"
    "30303a30302b30383a3030c40461636d6509a96e6577732f302f3137"
)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_bytes_of_a_table_are_pinned(name: str) -> None:
    table, value, pinned = SAMPLES[name]
    assert (table.prefix + table.encode(value)).hex() == pinned
    assert table.decode(bytes.fromhex(pinned)[1:]) == value


def test_a_clock_of_0_1_0_is_read() -> None:
    assert state_tables.CLOCKS.decode(bytes.fromhex("920703")) == PartitionClock(7, 3)


def test_a_clock_from_before_equal_ticks_were_counted_is_read() -> None:
    read = state_tables.CLOCKS.decode(bytes.fromhex("94070302c3"))
    assert read == PartitionClock(7, 3, 2, True)


def test_a_tally_from_before_it_held_copies_is_read_as_one_without() -> None:
    read = state_tables.TALLIES.decode(
        bytes.fromhex("949402a263310708059509010708c401019204921415")
    )
    balance = Balance(4, (20, 21))
    without = {"balance": balance, "intent_classes": None, "threshold": None}
    assert read == replace(SAMPLES["TALLIES"][1], **without)


def test_all_tables_are_pinned_and_none_shares_its_prefix() -> None:
    tables = [one for one in vars(state_tables).values() if isinstance(one, Table)]
    tables += [UNFINISHED, POSITIONS]
    assert {id(table) for table, _, _ in SAMPLES.values()} == {id(table) for table in tables}
    assert len({table.prefix for table in tables}) == len(tables)


def test_a_line_segment_is_read_as_it_is_written() -> None:
    said = LineSegment("line-1", [LineCall("c1", "acme", 7, None), None], 3, [9])
    (written,) = calls.segments(said)
    assert written.hex() == SEGMENT
    assert lines._decode(written) == said
    before = LineSegment("line-1", said.calls)
    assert lines._decode(bytes.fromhex(SEGMENT_OF_0_1_0)) == before


def test_a_fan_out_is_read_as_it_is_written() -> None:
    said = Announcement("n1", "upgrade", "t", "c", "2026-02-14T10:00:00+08:00")
    written = announcements._encode(announcements._FanOut(said, b"acme", 9, "news/0/17"))
    assert written.hex() == FAN_OUT
    assert announcements._decode(written) == announcements._FanOut(said, b"acme", 9, "news/0/17")
    before = bytes.fromhex("93" + FAN_OUT[2 : -2 * len("anews/0/17")])
    assert announcements._decode(before) == announcements._FanOut(said, b"acme", 9)

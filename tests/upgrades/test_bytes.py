"""0.1.0 (commit 61b90f7) and this version in one group: each reads what the other wrote.

While workers are replaced one by one, partitions go to and fro between them, and with them the
state and the group's own topics. What 0.1.0 read and wrote stands here as it was: its structs, and
bytes that its code made.
"""

from typing import Any, Literal

import msgspec
import pytest
from msgspec import Struct, field

from agents import announcements, lines
from agents.announcements import _FanOut
from agents.calls import segments
from streams.records import Announcement
from tables import state_tables
from tables.batches import MOST_LISTED, Parked, list_parked
from tables.lines import LineCall, LineSegment
from tests.test_state_bytes import SAMPLES

Channel = Literal["inbox", "wechat", "sms"]


class OldRun(Struct, array_like=True):
    count: int = 0
    first_call_id: str = ""
    last: int = 0
    tick: int = 0


class OldBatch(Struct, array_like=True):
    size: int
    seen: int = 0
    last: int = 0
    tick: int = 0
    bits: bytearray = bytearray()


class OldPage(Struct, array_like=True):
    bits: bytearray = bytearray()


class OldParked(Struct, array_like=True):
    submitted: list[int] = []


class OldBalance(Struct, array_like=True):
    latest: int | None = None
    told_days: tuple[int, ...] = ()


class OldTally(Struct, array_like=True):
    run: OldRun = field(default_factory=OldRun)
    submitted: int = 0
    batch: OldBatch | None = None
    balance: OldBalance = field(default_factory=OldBalance)
    intent_classes: str | None = None
    threshold: int | None = None


class OldCustomer(Struct, array_like=True):
    name: str
    openid: str | None
    phone: str | None
    intent_classes: str
    threshold: int | None
    expires: int | None
    channels: dict[str, list[Channel]] | None
    since: int
    told_expiries: list[int] = []


class OldLineRun(Struct, array_like=True):
    run: OldRun = field(default_factory=OldRun)
    accounts: dict[str, list[Channel] | None] = {}


class OldRecharges(Struct, array_like=True):
    hashes: bytes = b""


class OldClock(Struct, array_like=True):
    tick: int = 0
    accounts_offset: int = -1


class OldAnnounced(Struct, array_like=True):
    published: int = 0


class OldUnfinished(Struct, array_like=True):
    last: int
    offsets: list[int]


class OldSegment(Struct, array_like=True):
    line_id: str
    calls: list[tuple[str, str, int, list[Channel] | None] | None]


class OldAnnouncement(Struct):
    announcement_id: str
    kind: str
    title: str
    content: str
    published_at: str


class OldFanOut(Struct, array_like=True):
    announcement: OldAnnouncement
    after: bytes | None = None
    until: int = -1


# By table: how 0.1.0 reads it, and a value as its code wrote it.
OLD: dict[str, tuple[type[Any], str]] = {
    "CUSTOMERS": (
        OldCustomer,
        "99a6e4ba91e5b886a26f31c0a24142cd13880781ab6c6f775f62616c616e636591a3736d73039108",
    ),
    "TALLIES": (OldTally, "969402a263310708059509010708c401019204921415a24142cd1388"),
    "BATCHES": (OldBatch, "9509010708c40101"),
    "PARKED": (OldParked, "91920506"),
    "PAGES": (OldPage, "91c401ff"),
    "LINES": (OldLineRun, "929401a26331070882a461636d6591a5696e626f78a3626f62c0"),
    "RECHARGES": (OldRecharges, "91c4083132333435363738"),
    "ANNOUNCED": (OldAnnounced, "9107"),
    "CLOCKS": (OldClock, "920703"),
    "UNFINISHED": (OldUnfinished, "9209920407"),
}
NEW_TABLES = {"LINE_ACCOUNTS", "MORE_RECHARGES", "POSITIONS"}
"""0.1.0 keeps their values as it finds them: it knows no table to look them up in."""


def fields(value: Any) -> Any:
    return msgspec.to_builtins(value)


def test_each_table_that_0_1_0_had_is_looked_at() -> None:
    assert {*OLD} | NEW_TABLES == {*SAMPLES}


@pytest.mark.parametrize("name", OLD)
def test_what_0_1_0_remembered_is_read(name: str) -> None:
    table, new, _ = SAMPLES[name]
    old, written = OLD[name]
    read = fields(table.decode(bytes.fromhex(written)))
    then = fields(msgspec.msgpack.decode(bytes.fromhex(written), type=old))
    # What came since has its default.
    assert _without_what_is_new(read, then) == then
    assert len(read) >= len(then)
    assert type(table.decode(bytes.fromhex(written))) is type(new)


@pytest.mark.parametrize("name", OLD)
def test_0_1_0_reads_what_is_remembered_and_what_it_writes_back_is_read(name: str) -> None:
    table, value, _ = SAMPLES[name]
    old, _ = OLD[name]
    then = msgspec.msgpack.decode(table.encode(value), type=old)
    back = table.decode(msgspec.msgpack.encode(then))
    assert fields(then) == _without_what_is_new(fields(value), fields(then))
    assert _without_what_is_new(fields(back), fields(then)) == fields(then)


def _without_what_is_new(value: Any, then: Any) -> Any:
    if not isinstance(value, list) or not isinstance(then, list):
        return value
    return [_without_what_is_new(one, old) for one, old in zip(value, then, strict=False)]


def test_line_segments_travel_both_ways() -> None:
    calls = [LineCall("c1", "acme", 7, None), None, LineCall("c2", "bob", 8, ["sms"])]
    (written,) = segments(LineSegment("line-1", calls, 3, [9, 11]))
    then = msgspec.msgpack.decode(written, type=OldSegment)
    assert then == OldSegment("line-1", [("c1", "acme", 7, None), None, ("c2", "bob", 8, ["sms"])])
    assert lines._decode(msgspec.msgpack.encode(then)) == LineSegment("line-1", calls)


def test_a_line_segment_s_calls_may_grow_in_a_later_version() -> None:
    """This version ignores what it doesn't know; 0.1.0 took no fifth field."""
    later = msgspec.msgpack.encode(
        ["line-1", [["c1", "acme", 7, None, "new"], None], 3, [9], "new"]
    )
    assert lines._decode(later) == LineSegment("line-1", [LineCall("c1", "acme", 7), None], 3, [9])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(later, type=OldSegment)


def test_fan_outs_travel_both_ways() -> None:
    said = Announcement("n1", "upgrade", "t", "c", "2026-02-14T10:00:00+08:00")
    then = msgspec.msgpack.decode(
        announcements._encode(_FanOut(said, b"acme", 9, "news/0/17")), type=OldFanOut
    )
    assert (then.after, then.until, then.announcement.announcement_id) == (b"acme", 9, "n1")
    assert announcements._decode(msgspec.msgpack.encode(then)) == _FanOut(said, b"acme", 9)


def test_a_list_of_all_batches_that_0_1_0_kept_gets_short_when_the_next_is_parked() -> None:
    parked = state_tables.PARKED.decode(msgspec.msgpack.encode(OldParked(list(range(100_000)))))
    list_parked(parked, 100_000)
    assert parked == Parked(list(range(100_001 - MOST_LISTED, 100_001)), 100_001 - MOST_LISTED)

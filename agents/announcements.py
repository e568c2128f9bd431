"""The announcements agent: one announcement, to every account of every partition, once.

A copy goes into each partition. There it is worked off in portions; after each portion a record
that says how far it came goes back into the same topic, with the same transaction. So a fan-out
survives whatever happens to its worker, and alerts pass between two portions. A portion is as
large as the engine has room for: what it tells is dispatched from the queue that alerts wait in.
"""

from bisect import bisect_right
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agents.rules import Rules
from agents.telling import cause_of, noticed, readable, tell
from streams.decoding import decode_announcement
from streams.engine.state import State
from streams.engine.types import Chunk, Output
from streams.records import Announcement
from streams.times import format_instant, parse_instant
from streams.topics import Topics
from tables import texts
from tables.state_tables import ANNOUNCED, CLOCKS, CUSTOMERS, Announced, PartitionClock

_MOST_IN_PORTION = 1_000
_LEAST_IN_PORTION = 10
_COMMANDS_EACH = 2
"""Commands for each account, usually: one for the inbox and one for WeChat."""
_WALK = "fan-outs"


class _FanOut(Struct, array_like=True):
    """An announcement on its way through one partition. Travels: append fields only."""

    announcement: Announcement
    after: bytes | None = None
    """The last account that was told; None: none yet."""
    until: int = -1
    """The last offset of `accounts` when the fan-out began: accounts added later are not told."""
    cause: str = ""
    """The name of the announcement's record (see `cause_of`)."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_FanOut).decode


class AnnouncementsAgent:
    """Folds `announcements` and the group's fan-outs."""

    def __init__(self, rules: Rules, topics: Topics) -> None:
        self._rules = rules
        self._topics = topics

    def fold_announcements(self, polled: Chunk) -> None:
        """Copy what is for everyone into every partition."""
        topics, zone = self._topics, self._rules.zone
        for record, announcement in readable(polled, topics, zone, decode_announcement):
            if announcement.is_for_everyone:
                cause = cause_of(polled.tp, record.offset)
                # It comes back after each portion: half a megabyte of content needn't, nor a time
                # with as many digits.
                published = parse_instant(announcement.published_at)
                short = replace(
                    announcement,
                    content=texts.shortened(announcement.content),
                    published_at=format_instant(published, zone),
                )
                copy = _encode(_FanOut(short, cause=cause))
                for partition in range(self._topics.partitions):
                    polled.emit(Output(self._topics.fan_outs, partition, record.key, copy))

    def fold_fan_outs(self, polled: Chunk) -> None:
        """Tell the next portion of this partition's accounts."""
        for record in polled.in_turn():
            fan_out = _decode(record.value or b"")
            if self._is_told(polled.state, fan_out):
                continue
            more = self._tell_portion(polled, fan_out)
            if more is not None:
                polled.emit(
                    Output(self._topics.fan_outs, polled.tp.partition, record.key, _encode(more))
                )

    def _is_told(self, state: State, fan_out: _FanOut) -> bool:
        """Was this announcement handled before? If not, remember it as handled."""
        if fan_out.after is not None:
            return False
        key = fan_out.announcement.announcement_id.encode()
        if state.peek(ANNOUNCED, key) is not None:
            return True
        state.put(ANNOUNCED, key, Announced(parse_instant(fan_out.announcement.published_at)))
        return False

    def _tell_portion(self, polled: Chunk, fan_out: _FanOut) -> _FanOut | None:
        state, said = polled.state, fan_out.announcement
        until = fan_out.until
        if fan_out.after is None:
            until = (state.peek(CLOCKS, b"") or PartitionClock()).accounts_offset
        published = parse_instant(said.published_at)
        most = min(max(polled.room() // _COMMANDS_EACH, _LEAST_IN_PORTION), _MOST_IN_PORTION)
        portion, is_last = _next_accounts(state, fan_out, until, most)
        for key in portion:
            customer = state.peek(CUSTOMERS, key)
            if customer is not None and customer.since <= until:
                commands = texts.announcement(
                    key.decode(), customer, said, published, self._rules.zone
                )
                tell(
                    polled,
                    self._topics,
                    noticed("announcement", commands),
                    polled.tp.partition,
                    cause=fan_out.cause,
                    is_urgent=False,
                )
        return None if is_last else _FanOut(said, portion[-1], until, fan_out.cause)


@dataclass
class _Walk:
    """The accounts of a partition in the order of their keys, shared by all running fan-outs."""

    offset: int
    """The list is complete up to this offset of `accounts`."""
    accounts: list[bytes]
    running: set[str] = field(default_factory=set)


def _next_accounts(
    state: State, fan_out: _FanOut, until: int, most: int
) -> tuple[list[bytes], bool]:
    """Return the next portion of accounts in the order of their keys; is it the last?"""
    walk: _Walk | None = state.derived.get(_WALK)
    if walk is None or walk.offset < until:
        known = (state.peek(CLOCKS, b"") or PartitionClock()).accounts_offset
        running = set() if walk is None else walk.running
        walk = state.derived[_WALK] = _Walk(known, sorted(state.keys(CUSTOMERS)), running)
    name = fan_out.announcement.announcement_id
    walk.running.add(name)
    start = 0 if fan_out.after is None else bisect_right(walk.accounts, fan_out.after)
    portion = walk.accounts[start : start + most]
    is_last = start + most >= len(walk.accounts)
    if is_last:
        walk.running.discard(name)
        if not walk.running:
            del state.derived[_WALK]
    return portion, is_last

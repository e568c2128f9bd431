"""Positions: up to which offset of which topic the state was built from each source.

They are written to the changelog with the transaction that commits the group's offsets. So the two
agree, unless somebody changed one of them. `decide` (pure) says where reading goes on, or what is
missing; `tell` says what an operator can do about that.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from msgspec import Struct

from streams.engine.state import Table
from streams.engine.types import TP
from streams.kafka.protocol import CommittedOffset


class Position(Struct, array_like=True):
    """How far a source partition is folded. Persisted: append fields only, with defaults."""

    offset: int
    topic_id: bytes = b""
    """Empty: the brokers are older than topic ids."""
    is_begun: bool = True
    """Was any record folded? False: this is only the offset at which reading begins."""


# The key is the topic. Version 0.1.0 leaves records of this unknown table as they are.
POSITIONS = Table(b"@", Position)
ORIGIN = b""
"""A key of `POSITIONS` that is written once to each changelog partition. A partition without it
was made anew under a running worker, and lacks what was written before."""


class Missing(Enum):
    """Why a worker can't go on from the state's positions."""

    MADE_ANEW = auto()
    """The topic was deleted and made anew since the state was built."""
    DELETED_UNREAD = auto()
    CUT_SHORT = auto()
    """The log ends before the offset up to which it was read."""
    STATE_BEHIND = auto()
    """The changelog lacks what was committed together with the group's offsets."""
    OFFSETS_EXPIRED = auto()
    """The group has no offsets, and the state, written by 0.1.0, has no positions."""
    FORGOTTEN = auto()
    """The group has no offsets and no state, but the queues that only it writes were written."""
    FORGOTTEN_IN_PART = auto()
    """The same of some partition numbers; others have their state."""


class Gap(NamedTuple):
    """A partition that lacks something: it was read up to `read_to`, and its log now begins and
    ends at `begin` and `end`."""

    what: Missing
    tp: TP
    read_to: int
    begin: int
    end: int


class MissingRecordsError(Exception):
    """The worker can't go on without losing or repeating records. The text says what an operator
    can do."""


@dataclass(frozen=True)
class Log:
    """A partition's log at this moment."""

    begin: int
    end: int
    topic_id: bytes
    is_written: bool = False
    """Do this group's transactions write to it? Then a marker stands behind what they wrote."""
    is_shared: bool = False
    """May others write to it too?"""


@dataclass(frozen=True)
class Start:
    """The offset at which reading goes on."""

    offset: int
    is_new: bool
    """Nothing was ever folded of this partition."""
    is_another_topic: bool = False
    """The topic was made anew: offsets that the state remembers mean nothing in it."""
    is_decided: bool = False
    """An operator set the offset by hand."""


def decide(
    committed: CommittedOffset,
    known: Position | None,
    log: Log,
    *,
    has_state: bool = True,
    unfinished: Collection[int] = (),
) -> Start | Missing:
    """Return where reading of one partition goes on, or why it can't.

    `committed`: the group's offset. `known`: the state's position. `has_state`: is there a state
    that keeps this partition's position? `unfinished`: offsets of records that the state knows as
    begun and not done.

    1. An offset that an operator set by hand counts, whatever the state says.
    2. An offset committed by 0.1.0, which writes no positions, is newer than any position.
    3. Else the state's position counts. The group's offset is the same, expired, or lower; if it
       is higher, the state has lost what was written with it.
    4. Where nothing was ever read, reading begins at the log's beginning.
    5. The records to be read must be there, in the same topic as before.
    """
    is_decided = committed.offset >= 0 and not committed.metadata
    is_of_old = committed.offset >= 0 and not is_decided and not committed.has_position
    is_other = known is not None and is_another(known.topic_id, log.topic_id)
    if is_decided or is_of_old:
        start = Start(committed.offset, False, is_other, is_decided)
    elif known is not None:
        if is_other:
            return Missing.MADE_ANEW
        if committed.offset > known.offset:
            return Missing.STATE_BEHIND
        start = Start(known.offset, not known.is_begun)
    elif committed.offset >= 0:
        if has_state:
            return Missing.STATE_BEHIND
        start = Start(committed.offset, False)
    else:
        return Start(log.begin, True)
    if start.offset > log.end:
        return Missing.CUT_SHORT
    unread = log.begin - start.offset
    # 0.1.0 always committed the offset before the marker. In a topic that others write to as well,
    # a single offset that is left may be a record of theirs, unless it is 0.1.0's.
    is_marker = (
        unread == 1
        and log.is_written
        and (is_of_old or not log.is_shared)
        and start.offset not in unfinished
    )
    if unread > 0 and (is_decided or not is_marker):
        return Missing.DELETED_UNREAD
    return Start(max(start.offset, log.begin), start.is_new, is_other, is_decided)


def is_another(known: bytes, topic_id: bytes) -> bool:
    """Has a topic another id than before? False where the brokers are older than topic ids."""
    return bool(known and topic_id and known != topic_id)


def tell(
    gaps: Iterable[Gap], *, group: str, changelog: str, read_first: Sequence[str], brokers: str
) -> str:
    """Return one line for operators: what is missing, and which commands decide how to go on."""
    by_kind: dict[Missing, dict[str, list[Gap]]] = {}
    for gap in sorted(gaps, key=lambda gap: (gap.what.value, gap.tp)):
        by_kind.setdefault(gap.what, {}).setdefault(gap.tp.topic, []).append(gap)
    reset = f"kafka-consumer-groups --bootstrap-server {brokers} --group {group} --reset-offsets"
    lost = [what for what in by_kind if what is Missing.STATE_BEHIND]
    if lost:
        numbers = sorted({g.tp.partition for gs in by_kind[lost[0]].values() for g in gs})
        again = " ".join(f"--topic {topic}" for topic in read_first)
        return (
            f"{changelog} doesn't hold the state of partitions {_listed(numbers)} up to the "
            "group's offsets: it was made anew or emptied, and what was remembered is missing. "
            f"Stop all workers and decide: `{reset} --execute --all-topics --to-current` goes on "
            f"with that forgotten, and after it `{reset} --execute {again} --to-earliest` with the "
            "customers read again; another DIALWATCH_GROUP begins anew, and sends what the topics "
            "still hold again"
        )
    forgotten = by_kind.get(Missing.FORGOTTEN) or by_kind.get(Missing.FORGOTTEN_IN_PART)
    if forgotten:
        where, part = "", dict[str, str]()
        if Missing.FORGOTTEN not in by_kind:
            # Only these partitions: nothing of the others is to be read again.
            for topic, gone in forgotten.items():
                part[topic] = f":{_listed(gap.tp.partition for gap in gone)}"
            every = _listed(gap.tp.partition for gone in forgotten.values() for gap in gone)
            where = f" in partitions {every}"
        which = " ".join(f"--topic {topic}{part.get(topic, '')}" for topic in forgotten)
        again = " ".join(f"--topic {topic}{part.get(topic, '')}" for topic in read_first)
        return (
            f"{changelog} is empty{where} and group {group} has no offsets{where}, but it worked "
            "on them before, and what was remembered is missing. Stop all workers and "
            f"decide: `{reset} --execute {which} --to-latest` (or `--to-datetime` of when they "
            "stopped) goes on from there with that forgotten, and after it "
            f"`{reset} --execute {again} --to-earliest` with the customers read again; another "
            "DIALWATCH_GROUP begins anew, and sends what the topics still hold again"
        )
    said = [_sentence(what, topics) for what, topics in by_kind.items()]
    which = " ".join(
        f"--topic {topic}"
        if found[0].what is Missing.MADE_ANEW
        # Only these partitions: nothing of the others is to be read again.
        else f"--topic {topic}:{_listed(gap.tp.partition for gap in found)}"
        for topic, found in _merged(by_kind.values()).items()
    )
    return (
        f"{'; '.join(said)}. Stop all workers and decide: `{reset} --execute {which} "
        "--to-earliest` goes on with what is there now, the same with `--to-latest` with what "
        "comes from now on"
    )


def _sentence(what: Missing, topics: Mapping[str, Sequence[Gap]]) -> str:
    parts = []
    for topic, gaps in topics.items():
        first = gaps[0]
        where = f"{topic}-{first.tp.partition}" if len(gaps) == 1 else topic
        read, begin, end = first.read_to, first.begin, first.end
        match what:
            case Missing.MADE_ANEW:
                parts.append(
                    f"{topic} was deleted or made anew: what it held and was not read is lost"
                )
            case Missing.DELETED_UNREAD:
                parts.append(
                    f"{where}: group goes on at offset {read}, but the log holds {begin} to {end}: "
                    "records were deleted before they were read"
                )
            case Missing.CUT_SHORT:
                parts.append(
                    f"{where}: group goes on at offset {read}, but the log holds {begin} to {end}: "
                    "its end was lost, or the topic was made anew"
                )
            case _:
                parts.append(
                    f"{where}: the group's offsets expired, and the state, which 0.1.0 wrote, "
                    "doesn't know how far it was read"
                )
    return "; ".join(parts)


def _merged(kinds: Iterable[Mapping[str, Sequence[Gap]]]) -> dict[str, list[Gap]]:
    merged: dict[str, list[Gap]] = {}
    for topics in kinds:
        for topic, gaps in topics.items():
            merged.setdefault(topic, []).extend(gaps)
    return merged


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, sorted(set(numbers))))

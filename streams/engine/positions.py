"""What the state was built from: how far each source was read, and which topic that was.

Written to the changelog with the transaction that commits the group's offsets, so the two say the
same unless somebody else changed one of them. `decide` is pure: it says where reading goes on, or
what is missing, and `tell` what an operator can do about it.
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
    """How far one source is folded. Persisted: append fields only, with defaults."""

    offset: int
    topic_id: bytes = b""
    """Empty: brokers knew of none."""
    is_begun: bool = True
    """Was anything folded, or is this only where it begins?"""


# The key is the topic. 0.1.0 keeps what it doesn't know as it is.
POSITIONS = Table(b"@", Position)
ORIGIN = b""
"""A key of `POSITIONS` that each changelog partition gets once: one without it was made anew under
a running worker, and lacks what was written before."""


class Missing(Enum):
    """What keeps a worker from going on where the state stands."""

    MADE_ANEW = auto()
    """The topic is another one than the state was built from."""
    DELETED_UNREAD = auto()
    CUT_SHORT = auto()
    """The log ends before the place up to which it was read."""
    STATE_BEHIND = auto()
    """The changelog doesn't hold what was written with the offsets."""
    OFFSETS_EXPIRED = auto()
    """The group has none, and the state, which is 0.1.0's, doesn't know what it was built from."""
    FORGOTTEN = auto()
    """Neither offsets nor a state, but queues that only this group writes were written."""


class Gap(NamedTuple):
    """One partition of which something is missing."""

    what: Missing
    tp: TP
    read_to: int
    begin: int
    end: int


class MissingRecordsError(Exception):
    """Going on by itself would lose or repeat something. Its text says what an operator can do."""


@dataclass(frozen=True)
class Log:
    """A partition as it stands."""

    begin: int
    end: int
    topic_id: bytes
    is_written: bool = False
    """This group's transactions write it: behind what they wrote stands a marker."""
    is_shared: bool = False
    """Others may write it too."""


@dataclass(frozen=True)
class Start:
    """Where reading goes on."""

    offset: int
    is_new: bool
    """Nothing was ever folded."""
    is_another_topic: bool = False
    """Not the one that was read before: what the state says of its offsets means nothing."""
    is_decided: bool = False
    """Somebody set it by hand."""


def decide(
    committed: CommittedOffset,
    known: Position | None,
    log: Log,
    *,
    has_state: bool = True,
    unfinished: Collection[int] = (),
) -> Start | Missing:
    """Return where reading goes on. `has_state`: is there one that positions are kept in?
    `unfinished`: offsets of which the state knows that they are records, begun and not done.

    1. Offsets that somebody set by hand are a decision, whatever the state says.
    2. Offsets of 0.1.0, which writes no positions, are younger than any position beside them.
    3. Else the state says it: the group's offsets say the same, or expired, or are older; if they
       are younger, the state lost what was written with them.
    4. Nothing was ever read: the log's beginning.
    5. What is to be read must be there, in the topic that was read before.
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
    # 0.1.0 committed before the marker, always. In a topic that others write too a single offset
    # may be one of theirs, if we have read up to it.
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
    """Is a topic another one than that which was known? Not, where brokers know of no ids."""
    return bool(known and topic_id and known != topic_id)


def tell(
    gaps: Iterable[Gap], *, group: str, changelog: str, read_first: Sequence[str], brokers: str
) -> str:
    """Return one line: what is missing, and which commands decide it."""
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
    if Missing.FORGOTTEN in by_kind:
        which = " ".join(f"--topic {topic}" for topic in by_kind[Missing.FORGOTTEN])
        again = " ".join(f"--topic {topic}" for topic in read_first)
        return (
            f"{changelog} is empty and group {group} has no offsets, but its own queues were "
            "written: it was here before, and what was remembered is missing. Stop all workers and "
            f"decide: `{reset} --execute {which} --to-latest` (or `--to-datetime` of when they "
            "stopped) goes on from there with that forgotten, and after it "
            f"`{reset} --execute {again} --to-earliest` with the customers read again; another "
            "DIALWATCH_GROUP begins anew, and sends what the topics still hold again"
        )
    said = [_sentence(what, topics) for what, topics in by_kind.items()]
    which = " ".join(
        f"--topic {topic}"
        if found[0].what is Missing.MADE_ANEW
        # Of the other partitions nothing is to be read again.
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

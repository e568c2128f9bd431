"""Which letters aren't sent again, and why: their topic is unknown, they would undo a later record,
or a customer might be told twice. Reads the topics that show this, and writes nothing."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from agents.settle import UNCERTAIN
from app.operations.commands import inside
from app.operations.installation import Installation
from app.operations.letters import Letter
from app.operations.moved import has_moved, places_of
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END
from streams.records import Delivery

MOST_ATTEMPTS = 5
_FEW = 8
_DONE = ("sent", "delivered", "undelivered")
_decode_delivery = msgspec.json.Decoder(Delivery).decode


class Refusal(NamedTuple):
    """Why a letter isn't sent again."""

    why: str
    is_forcible: bool = False


class Candidate(NamedTuple):
    """A letter without its value, since a hundred thousand may be in memory at once."""

    letter: Letter
    row: dict[str, Any]
    command: str | None
    """The notification id, if the letter is a valid command."""


async def refusals_of(
    installation: Installation, found: Sequence[Candidate], *, force: bool
) -> dict[str, Refusal]:
    """Return letter → why it isn't sent again. Letters that were handled already are left out."""
    open_ones = [one for one in found if one.letter.handled is None]
    commands, younger = await asyncio.gather(
        _ends_of(installation, [one for one in open_ones if one.command is not None]),
        _younger(installation, open_ones),
    )
    refusals = {}
    for one in open_ones:
        letter = one.letter
        reasons = [_refusal_of_place(installation, letter)]
        if letter.is_truncated:
            reasons.append(Refusal("it is truncated: its bytes are not all there"))
        if one.command is not None:
            reasons.append(_refusal_of_end(commands.get(one.command, [])))
        if letter.name in younger:
            reasons.append(Refusal("its key has younger records in that topic", True))
        if letter.attempts > MOST_ATTEMPTS:
            reasons.append(Refusal(f"it was a dead letter {letter.attempts} times", True))
        counting = [reason for reason in reasons if reason and not (reason.is_forcible and force)]
        if counting:
            first = min(counting, key=lambda reason: reason.is_forcible)
            hint = " (--force sends it all the same)" if first.is_forcible else ""
            refusals[letter.name] = first._replace(why=f"{first.why}{hint}")
    return refusals


def _refusal_of_place(installation: Installation, letter: Letter) -> Refusal | None:
    topics = installation.topics
    read = (
        topics.calls, topics.recharges, topics.accounts, topics.announcements, topics.ticks,
        topics.notifications,
    )  # fmt: skip
    if letter.topic not in read:
        return Refusal(f"it came from {letter.topic or 'nowhere'}, which dialwatch doesn't read")
    count = installation.counts.get(letter.topic, 0)
    if not count:
        return Refusal(f"there is no topic {letter.topic}")
    if letter.key is None and not 0 <= letter.partition < count:
        return Refusal(f"there is no partition {letter.partition} of {letter.topic}")
    if letter.key is None and letter.topic == topics.accounts:
        return Refusal(f"{letter.topic} is compacted and takes no record without a key")
    return None


def _refusal_of_end(ends: Sequence[Delivery]) -> Refusal | None:
    if any(end.status in _DONE for end in ends):
        return Refusal("it was sent")
    if not ends:
        return Refusal("how it ended isn't known any more", True)
    last = ends[-1]
    if last.status != "failed":
        return Refusal(f"its end was {last.status}: {last.error}")
    if last.error == UNCERTAIN:
        return Refusal("its last attempt may have been taken", True)
    return None


async def _ends_of(
    installation: Installation, commands: Iterable[Candidate]
) -> dict[str, list[Delivery]]:
    """Return notification id → the command's deliveries, oldest first.

    All partitions are read: where the topic got more of them, a key's older deliveries lie where
    its newer ones don't, and those without a key may be in any.
    """
    ids = {one.command for one in commands if one.command is not None}
    if not ids:
        return {}
    wanted = [inside(one) for one in ids] if len(ids) <= _FEW else ()
    parts: dict[str, list[list[tuple[int, Delivery]]]] = {}

    async def read(tp: TP) -> None:
        here: dict[str, list[tuple[int, Delivery]]] = {}
        async for record in _all(installation, tp, 0, wanted):
            try:
                delivery = _decode_delivery(record.value or b"")
            except (ValueError, RecursionError):
                continue  # only dialwatch may write there
            if delivery.notification_id in ids:
                here.setdefault(delivery.notification_id, []).append((record.timestamp, delivery))
        for one, part in here.items():
            parts.setdefault(one, []).append(part)

    await asyncio.gather(*map(read, installation.partitions(installation.topics.deliveries)))
    found = {}
    for one, some in parts.items():
        # A partition's own order counts, whatever the clocks of those who wrote into it.
        some.sort(key=lambda part: part[-1][0])
        found[one] = [delivery for part in some for _, delivery in part]
    return found


async def _younger(installation: Installation, found: Iterable[Candidate]) -> set[str]:
    """Return the letters of `accounts` and `recharges` whose key has later records there."""
    topics = installation.topics
    by_topic: dict[str, list[Letter]] = {}
    for letter in (one.letter for one in found):
        is_ours = letter.topic in {topics.accounts, topics.recharges} and letter.key is not None
        if is_ours and letter.topic in installation.counts:
            by_topic.setdefault(letter.topic, []).append(letter)
    younger: set[str] = set()
    for topic, letters in by_topic.items():
        latest = _Latest()
        keys = {letter.key for letter in letters if letter.key is not None}
        await asyncio.gather(
            *(
                _read_latest(installation, tp, letters, keys, latest)
                for tp in installation.partitions(topic)
            )
        )
        younger.update(letter.name for letter in letters if latest.has_younger(letter))
    return younger


class _Latest:
    """The latest records of keys of one topic.

    In a letter's own partition their offsets say which are younger than it. In others, where its
    key belongs since the topic got more partitions, their times do; but a record that was moved
    there from the letter's partition is as old as it was there.
    """

    def __init__(self) -> None:
        self._offsets: dict[tuple[bytes, int], int] = {}
        self._times: dict[bytes, dict[frozenset[int], int]] = {}
        """Key → the partitions where a record lies and lay → the latest time of such (ms)."""

    def add(self, tp: TP, record: Any) -> None:
        places = list(places_of(tp, record))
        for partition, offset in places:
            at = record.key, partition
            self._offsets[at] = max(offset, self._offsets.get(at, -1))
        times = self._times.setdefault(record.key, {})
        lay = frozenset(partition for partition, _ in places)
        times[lay] = max(record.timestamp, times.get(lay, -1))

    def has_younger(self, letter: Letter) -> bool:
        key = letter.key or b""
        if self._offsets.get((key, letter.partition), -1) > letter.origin:
            return True
        return any(
            time >= letter.timestamp
            for lay, time in self._times.get(key, {}).items()
            if letter.partition not in lay
        )


async def _read_latest(
    installation: Installation, tp: TP, letters: Iterable[Letter], keys: set[bytes], latest: _Latest
) -> None:
    """Add one partition's records of `keys` that may be younger than the letters."""
    own = [letter.origin + 1 for letter in letters if letter.partition == tp.partition]
    others = [letter.timestamp for letter in letters if letter.partition != tp.partition]
    if others:
        own.append((await installation.logs.offsets([tp], min(others)))[tp])
    wanted = tuple(keys) if len(keys) <= _FEW else ()
    async for record in _all(installation, tp, min(own), wanted):
        if record.key in keys and not has_moved(record):
            latest.add(tp, record)


async def _all(
    installation: Installation, tp: TP, begin: int, wanted: Collection[bytes]
) -> AsyncIterator[Any]:
    """Yield a partition's records from an offset on that may contain one of `wanted`; none where
    the log ends before it, as that of a topic made anew may."""
    logs = installation.logs
    begins, ends = await logs.offsets([tp], BEGINNING), await logs.offsets([tp], END)
    begin = max(begin, begins[tp])
    if begin >= ends[tp]:
        return
    async for records in logs.scan(tp, begin, ends[tp], wanted):
        for record in records:
            yield record

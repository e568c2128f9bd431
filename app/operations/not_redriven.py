"""Which letters aren't sent again, and why: their topic is unknown, they would undo a later record,
or a customer might be told twice. Reads the topics that show this, and writes nothing."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from agents.settle import UNCERTAIN
from app.operations.installation import Installation
from app.operations.letters import Letter
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
    """Return notification id → the command's deliveries, oldest first."""
    topic = installation.topics.deliveries
    by_partition: dict[TP, set[str]] = {}
    for one in commands:
        tp = installation.partition(topic, one.letter.key or b"")
        by_partition.setdefault(tp, set()).add(one.command or "")
    found: dict[str, list[Delivery]] = {}

    async def read(tp: TP, ids: set[str]) -> None:
        wanted = [msgspec.json.encode(one)[1:-1] for one in ids] if len(ids) <= _FEW else ()
        async for record in _all(installation, tp, 0, wanted):
            try:
                delivery = _decode_delivery(record.value or b"")
            except msgspec.MsgspecError:
                continue
            if delivery.notification_id in ids:
                found.setdefault(delivery.notification_id, []).append(delivery)

    await asyncio.gather(*(read(tp, ids) for tp, ids in by_partition.items()))
    return found


async def _younger(installation: Installation, found: Iterable[Candidate]) -> set[str]:
    """Return the letters of `accounts` and `recharges` whose key has later records there."""
    topics = installation.topics
    by_partition: dict[TP, list[Letter]] = {}
    for letter in (one.letter for one in found):
        is_ours = letter.topic in {topics.accounts, topics.recharges} and letter.key is not None
        if is_ours and 0 <= letter.partition < installation.counts.get(letter.topic, 0):
            by_partition.setdefault(TP(letter.topic, letter.partition), []).append(letter)
    found_younger: set[str] = set()

    async def read(tp: TP, letters: list[Letter]) -> None:
        keys = {letter.key for letter in letters if letter.key}
        wanted = tuple(keys) if len(keys) <= _FEW else ()
        last: dict[bytes | None, int] = {}
        begin = min(letter.origin for letter in letters) + 1
        async for record in _all(installation, tp, begin, wanted):
            last[record.key] = record.offset
        found_younger.update(
            letter.name for letter in letters if last.get(letter.key, -1) > letter.origin
        )

    await asyncio.gather(*(read(tp, letters) for tp, letters in by_partition.items()))
    return found_younger


async def _all(
    installation: Installation, tp: TP, begin: int, wanted: Collection[bytes]
) -> AsyncIterator[Any]:
    """Yield a partition's records from an offset on that may contain one of `wanted`."""
    logs = installation.logs
    begins, ends = await logs.offsets([tp], BEGINNING), await logs.offsets([tp], END)
    async for records in logs.scan(tp, max(begin, begins[tp]), ends[tp], wanted):
        for record in records:
            yield record

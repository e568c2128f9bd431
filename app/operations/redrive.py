"""Dead letters sent again or put aside, each once, whoever asks and whenever it is cut off.

A letter's record and its mark are one transaction, under one transactional id of the group: who
begins ends what another left open, and only then reads which letters are handled. So a command
that is killed half-way has done whole letters or none, and of two that run at once the later one
goes on alone.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    MessageSizeTooLargeError,
    ProducerFenced,
    RecordListTooLargeError,
    UnknownError,
)

from agents.dead_letters import ATTEMPTS, own_headers
from agents.settle import UNCERTAIN
from app.errors import CommandError
from app.operations.installation import Installation
from app.operations.letters import (
    MOST_ROWS,
    Letter,
    Mark,
    Wanted,
    describe,
    letter_name,
    letters_between,
    mark_record,
    place_of,
    read_letter,
    read_marks,
)
from streams.decoding import InvalidRecordError, decode_notification
from streams.engine import fault_points
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END
from streams.kafka.producer import within
from streams.records import Delivery

MOST_ATTEMPTS = 5
_CHUNK_LETTERS = 200
_CHUNK_BYTES = 8 << 20
_FEW = 8
_STOP_S = 3.0
_TRANSACTION_MS = 60_000
_DONE = ("sent", "delivered", "undelivered")
_decode_delivery = msgspec.json.Decoder(Delivery).decode

Verb = Literal["redrive", "discard"]


class Refusal(NamedTuple):
    """Why a letter isn't sent again."""

    why: str
    is_forcible: bool = False


@dataclass
class Order:
    """What an operator wants done."""

    verb: Verb
    letters: Sequence[str] = ()
    """Named ones; none: all that the filters let through."""
    wanted: Wanted = field(default_factory=lambda: Wanted(limit=MOST_ROWS))
    why: str | None = None
    force: bool = False
    execute: bool = False


class _Candidate(NamedTuple):
    """A letter without its value: a hundred thousand are looked at before anything is done."""

    letter: Letter
    row: dict[str, Any]
    command: str | None
    """The notification id of a valid command."""


async def carry_out(installation: Installation, order: Order) -> dict[str, Any]:
    """Plan an order, and with `execute` do it; return what the commands and the console show.

        {"verb", "executed", "letters": [{"letter", …as `dlq list`, "action", "why"}],
         "counts": {"redrive" or "discard", "refused", "handled"}}

    `action` is what is (to be) done: the verb, `refused` (`why` says why) or `handled` (it was
    before). Raises CommandError where a named letter doesn't exist, and where another command
    began meanwhile; what was done until then stays done, and is marked.
    """
    for name in order.letters:
        place_of(installation, name)
    if not order.execute:
        return await _carry_out(installation, order, None)
    await _create_marks(installation)
    writer = _Writer(installation)
    try:
        await writer.open()
        return await _carry_out(installation, order, writer)
    except (ProducerFenced, InvalidProducerEpoch):
        raise CommandError(
            "another redrive or discard began meanwhile and goes on alone: look at dialwatch dlq "
            "list, then run this again"
        ) from None
    finally:
        await writer.close()


async def _carry_out(
    installation: Installation, order: Order, writer: "_Writer | None"
) -> dict[str, Any]:
    """1. find the letters, 2. judge them, 3. do what is right, in chunks, each a transaction."""
    found = await _find(installation, order)
    refusals = await _judge(installation, order, found)
    todo: dict[TP, list[int]] = {}
    rows = []
    for one in found:
        refusal = refusals.get(one.letter.name)
        action: str = order.verb
        why = None
        if one.letter.handled is not None:
            action, why = "handled", one.letter.handled
        elif refusal is not None:
            action, why = "refused", refusal.why
        else:
            todo.setdefault(one.letter.tp, []).append(one.letter.offset)
        rows.append({**one.row, "action": action, "why": why})
    if writer is not None:
        too_long = await _execute(installation, order, todo, writer)
        await writer.forget_marks()
        for row in rows:
            if row["letter"] in too_long:
                row["action"], row["why"] = "refused", too_long[row["letter"]]
    counts = dict.fromkeys((order.verb, "refused", "handled"), 0)
    for row in rows:
        counts[row["action"]] += 1
    return {
        "verb": order.verb,
        "executed": order.execute,
        "letters": rows,
        "counts": counts,
    }


async def _find(installation: Installation, order: Order) -> list[_Candidate]:
    """Return the letters that are meant, in the order in which they are handled."""
    prefix, found = installation.topics.prefix, []
    if order.letters:
        wanted = replace(order.wanted, with_handled=True)
        marks = await read_marks(installation)
        for name in dict.fromkeys(order.letters):
            letter = await read_letter(installation, name, marks)
            if wanted.has(letter, prefix):
                found.append(_candidate(installation, letter))
        return sorted(found, key=lambda one: (one.letter.tp, one.letter.offset))
    marks = await read_marks(installation)
    tps, logs = installation.partitions(installation.topics.dead_letters), installation.logs
    begins, ends = await logs.offsets(tps, BEGINNING), await logs.offsets(tps, END)
    for tp in tps:
        async for letter in letters_between(installation, tp, begins[tp], ends[tp], marks):
            if order.wanted.has(letter, prefix):
                found.append(_candidate(installation, letter))
                if len(found) >= order.wanted.limit:
                    return found
    return found


def _candidate(installation: Installation, letter: Letter) -> _Candidate:
    command = None
    if letter.topic == installation.topics.notifications:
        with suppress(InvalidRecordError):  # it never was a command
            command = decode_notification(letter.key, letter.value).notification_id
    return _Candidate(replace(letter, value=None), describe(installation.settings, letter), command)


async def _judge(
    installation: Installation, order: Order, found: Sequence[_Candidate]
) -> dict[str, Refusal]:
    """Return, by letter, why it isn't sent again. What is put aside needs no reason."""
    if order.verb == "discard":
        return {}
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
        counting = [
            reason for reason in reasons if reason and not (reason.is_forcible and order.force)
        ]
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
    installation: Installation, commands: Iterable[_Candidate]
) -> dict[str, list[Delivery]]:
    """Return the deliveries of commands by notification id, oldest first."""
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


async def _younger(installation: Installation, found: Iterable[_Candidate]) -> set[str]:
    """Return the letters of accounts and recharges whose key has younger records there."""
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


async def _all(installation: Installation, tp: TP, begin: int, wanted: Collection[bytes]) -> Any:
    """Yield a partition's records from an offset on."""
    logs = installation.logs
    begins, ends = await logs.offsets([tp], BEGINNING), await logs.offsets([tp], END)
    async for records in logs.scan(tp, max(begin, begins[tp]), ends[tp], wanted):
        for record in records:
            yield record


# -- doing it -----------------------------------------------------------------------------------


async def _execute(
    installation: Installation, order: Order, todo: dict[TP, list[int]], writer: "_Writer"
) -> dict[str, str]:
    """Handle letters in chunks, each a transaction; return those that Kafka doesn't take."""
    refused: dict[str, str] = {}
    for tp, offsets in sorted(todo.items()):
        left = set(offsets)
        chunk: list[Letter] = []
        size = 0
        async for letter in letters_between(installation, tp, min(left), max(left) + 1, {}):
            if letter.offset not in left:
                continue
            chunk.append(letter)
            size += len(letter.value or b"")
            if len(chunk) >= _CHUNK_LETTERS or size >= _CHUNK_BYTES:
                refused |= await writer.handle(order, chunk)
                chunk, size = [], 0
        if chunk:
            refused |= await writer.handle(order, chunk)
    return refused


class _Writer:
    """One transaction at a time. Whoever opened last is the only one."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """Fence whoever was here before, and end what they left open."""
        settings = self._installation.settings
        producer = AIOKafkaProducer(
            **settings.kafka_client_options(),
            transactional_id=f"{settings.group}-dead-letters",
            transaction_timeout_ms=_TRANSACTION_MS,
            acks="all",
            linger_ms=0,
            max_request_size=16 << 20,
        )
        try:
            await producer.start()
        except BaseException:
            await within(_STOP_S, producer.stop())
            raise
        self._producer = producer

    async def close(self) -> None:
        """Disconnect; what is open is aborted by whoever opens next, or by time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await within(_STOP_S, producer.stop())

    async def handle(self, order: Order, letters: Sequence[Letter]) -> dict[str, str]:
        """Handle letters as one; where Kafka doesn't take one of them, each by itself."""
        try:
            await self._commit(order, letters)
        except (MessageSizeTooLargeError, RecordListTooLargeError, UnknownError) as error:
            # aiokafka can't abort after a failed send: the next producer's start does.
            await self.close()
            await self.open()
            if len(letters) == 1:
                return {letters[0].name: f"Kafka doesn't take it ({type(error).__name__})"}
            refused: dict[str, str] = {}
            for letter in letters:
                refused |= await self.handle(order, [letter])
            return refused
        return {}

    async def forget_marks(self) -> None:
        """Delete the marks of letters that retention took."""
        producer, installation = self._producer, self._installation
        tps = installation.partitions(installation.topics.dead_letters)
        begins = await installation.logs.offsets(tps, BEGINNING)
        gone = [
            (tp, offset)
            for tp, marks in (await read_marks(installation)).items()
            for offset in marks
            if offset < begins.get(tp, 0)
        ]
        if not gone or producer is None:
            return
        topic = installation.topics.handled_letters
        async with producer.transaction():
            for tp, offset in gone:
                await producer.send_and_wait(
                    topic,
                    None,
                    key=letter_name(tp, offset).encode(),
                    partition=tp.partition % installation.counts[topic],
                )

    async def _commit(self, order: Order, letters: Sequence[Letter]) -> None:
        producer, topics = self._producer, self._installation.topics
        if producer is None:
            raise RuntimeError("the writer is not open")
        mark = Mark(
            "redriven" if order.verb == "redrive" else "discarded",
            letter_at=0,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            why=order.why,
        )
        await producer.begin_transaction()
        sent: list[asyncio.Future[Any]] = []
        for letter in letters:
            if order.verb == "redrive":
                sent.append(await self._send_again(producer, letter))
                sent[-1].add_done_callback(_note)
            mark.letter_at = letter.timestamp
            key, value = mark_record(letter, mark)
            marks = letter.tp.partition % self._installation.counts[topics.handled_letters]
            sent.append(
                await producer.send(topics.handled_letters, value, key=key, partition=marks)
            )
            sent[-1].add_done_callback(_note)
        fault_points.passing(fault_points.HALF_PRODUCED)
        for done in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done
        fault_points.passing(fault_points.BEFORE_COMMIT)
        await producer.commit_transaction()
        fault_points.passing(fault_points.AFTER_COMMIT)

    async def _send_again(
        self, producer: AIOKafkaProducer, letter: Letter
    ) -> "asyncio.Future[Any]":
        headers = [*own_headers(letter.headers), (ATTEMPTS, str(letter.attempts).encode())]
        partition = letter.partition if letter.key is None else None
        return await producer.send(  # type: ignore[no-any-return]
            letter.topic, letter.value, key=letter.key, partition=partition, headers=headers
        )


def _note(done: "asyncio.Future[Any]") -> None:
    """Look at what a send came to: where the next one raises first, nobody else does."""
    if not done.cancelled():
        done.exception()


async def _create_marks(installation: Installation) -> None:
    """Make the topic of marks in an installation that has none yet."""
    topics, counts = installation.topics, installation.counts
    missing = [
        topic
        for topic in topics.internal()
        if topic.name == topics.handled_letters and topic.name not in counts
    ]
    await installation.admin.create(missing, installation.settings.replication_factor)
    counts.update({topic.name: topic.partitions for topic in missing})

"""One transaction at a time, under one transactional id of the group: whoever opened last is the
only one who handles letters. A letter's record and its mark are in one transaction."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError, UnknownError

from agents.dead_letters import ATTEMPTS, own_headers
from app.operations.installation import Installation
from app.operations.letters import (
    Letter,
    Mark,
    Marks,
    is_handled,
    letter_name,
    mark_record,
    read_marks,
)
from app.operations.transactional_producer import close_producer, open_producer
from streams.engine import fault_points
from streams.kafka.log_scan import BEGINNING

Verb = Literal["redrive", "discard"]


class LetterWriter:
    """One transaction at a time. Whoever opened last is the only one."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._producer: AIOKafkaProducer | None = None
        self._marks: Marks = {}

    async def open(self) -> None:
        """Fence whoever was here before, and end what they left open."""
        self._producer = await open_producer(self._installation.settings, "dead-letters")
        # Only now nobody else can add to them.
        self._marks = await read_marks(self._installation)

    async def close(self) -> None:
        """Disconnect; what is open is aborted by whoever opens next, or by time."""
        producer, self._producer = self._producer, None
        await close_producer(producer)

    async def handle(
        self, verb: Verb, why: str | None, letters: Sequence[Letter]
    ) -> dict[str, str]:
        """Handle letters as one; where Kafka doesn't take one of them, each by itself. Return why
        some were not handled: also those that somebody else was faster with."""
        refused = {
            letter.name: "another command handled it meanwhile"
            for letter in letters
            if is_handled(letter, self._marks)
        }
        letters = [letter for letter in letters if letter.name not in refused]
        if not letters:
            return refused
        try:
            await self._commit(verb, why, letters)
        except (MessageSizeTooLargeError, RecordListTooLargeError, UnknownError) as error:
            # aiokafka can't abort after a failed send: the next producer's start does.
            await self.close()
            await self.open()
            if len(letters) == 1:
                reason = f"Kafka doesn't take it ({type(error).__name__})"
                return refused | {letters[0].name: reason}
            for letter in letters:
                refused |= await self.handle(verb, why, [letter])
        return refused

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

    async def _commit(self, verb: Verb, why: str | None, letters: Sequence[Letter]) -> None:
        producer, topics = self._producer, self._installation.topics
        if producer is None:
            raise RuntimeError("the writer is not open")
        mark = Mark(
            "redriven" if verb == "redrive" else "discarded",
            letter_at=0,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            why=why,
        )
        await producer.begin_transaction()
        sent: list[asyncio.Future[Any]] = []
        for letter in letters:
            if verb == "redrive":
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

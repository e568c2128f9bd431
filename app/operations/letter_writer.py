"""Writing what becomes of dead letters: a letter's record and its mark in one transaction. All
writers of a group share one transactional id, so the one opened last fences the others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

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
from app.operations.transactional_producer import (
    Outgoing,
    close_producer,
    open_producer,
    send_all,
)
from streams.engine import fault_points
from streams.kafka.log_scan import BEGINNING

Verb = Literal["redrive", "discard"]


class LetterWriter:
    """Handles letters, one transaction at a time. The one opened last fences all others."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._producer: AIOKafkaProducer | None = None
        self._marks: Marks = {}

    async def open(self) -> None:
        """Fence earlier writers, and end the transactions that they left open."""
        self._producer = await open_producer(self._installation.settings, "dead-letters")
        # Read only now, when nobody else can write marks.
        self._marks = await read_marks(self._installation)

    async def close(self) -> None:
        """Disconnect. An open transaction is aborted by the next writer, or times out."""
        producer, self._producer = self._producer, None
        await close_producer(producer)

    async def handle(
        self, verb: Verb, why: str | None, letters: Sequence[Letter]
    ) -> dict[str, str]:
        """Handle letters in one transaction; where Kafka refuses one, each in its own. Return
        letter → why it wasn't handled, also those that another writer has handled already."""
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
            # aiokafka can't abort after a failed send; the start of the next producer does.
            await self.close()
            await self.open()
            if len(letters) == 1:
                reason = f"Kafka doesn't take it ({type(error).__name__})"
                return refused | {letters[0].name: reason}
            for letter in letters:
                refused |= await self.handle(verb, why, [letter])
        return refused

    async def forget_marks(self) -> None:
        """Delete the marks of letters that retention has deleted."""
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
            await send_all(
                producer,
                (
                    Outgoing(
                        topic,
                        tp.partition % installation.counts[topic],
                        letter_name(tp, offset).encode(),
                        None,
                    )
                    for tp, offset in gone
                ),
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
        records = []
        for letter in letters:
            if verb == "redrive":
                records.append(_sent_again(letter))
            mark.letter_at = letter.timestamp
            key, value = mark_record(letter, mark)
            marks = letter.tp.partition % self._installation.counts[topics.handled_letters]
            records.append(Outgoing(topics.handled_letters, marks, key, value))
        await producer.begin_transaction()
        await send_all(producer, records)
        fault_points.passing(fault_points.BEFORE_COMMIT)
        await producer.commit_transaction()
        fault_points.passing(fault_points.AFTER_COMMIT)


def _sent_again(letter: Letter) -> Outgoing:
    """Return the record that a letter was made of, as it goes to where it came from."""
    headers = [*own_headers(letter.headers), (ATTEMPTS, str(letter.attempts).encode())]
    partition = letter.partition if letter.key is None else None
    return Outgoing(letter.topic, partition, letter.key, letter.value, headers)

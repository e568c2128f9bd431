"""Records that Kafka will never accept: each is replaced by what `Instead` returns for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from streams.engine.types import Header, Origin, Output
from streams.kafka.producer import Destination, ProducerRecord, RefusedRecordsError


class RefusedRecord(NamedTuple):
    """A record that was to be written, and why Kafka doesn't accept it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    reason: str
    """The name of Kafka's error."""
    longest: int | None
    """The longest record that the topic takes, in bytes; None: unknown."""
    origin: Origin | None = None
    """The output's."""


Instead = Callable[[RefusedRecord], list[Output]]
"""Returns the records to write in place of a refused one. It is called again with any of them that
is refused too."""


def without(
    records: Mapping[Destination, Sequence[ProducerRecord]],
    refused: RefusedRecordsError,
    *,
    instead: Instead,
    longest: Mapping[str, int],
    place: Callable[[Output], Destination],
    origins: Sequence[tuple[ProducerRecord, Origin]] = (),
) -> dict[Destination, Sequence[ProducerRecord]]:
    """Return `records` with the refused ones replaced. `longest`: `max.message.bytes` by topic.
    `place`: returns the topic and partition of an output. `origins`: of those of `records` that
    have one; what told that such a record was written is replaced with it."""
    known = {id(record): origin for record, origin in origins}
    kept: dict[Destination, list[ProducerRecord]] = {
        destination: list(pairs) for destination, pairs in records.items()
    }
    elsewhere: list[tuple[Destination, ProducerRecord]] = []
    untold: list[tuple[Destination, bytes | None, list[ProducerRecord]]] = []
    for (topic, partition), places in refused.refused.items():
        pairs = kept[topic, partition]
        for number in sorted(places, reverse=True):
            record = pairs.pop(number)
            key, value, headers = record
            origin = known.get(id(record))
            reason = type(refused.error).__name__
            limit = longest.get(topic)
            in_its_place: list[ProducerRecord] = []
            told = None if origin is None else place(origin.told)
            instead_of_told: list[ProducerRecord] = []
            for output in instead(
                RefusedRecord(topic, partition, key, value, headers, reason, limit, origin)
            ):
                record = output.key, output.value, output.headers
                if place(output) == (topic, partition):
                    in_its_place.append(record)
                elif place(output) == told:
                    instead_of_told.append(record)
                else:
                    elsewhere.append((place(output), record))
            if origin is not None and told is not None:
                untold.append((told, origin.told.value, instead_of_told))
            pairs[number:number] = in_its_place  # not behind what came after it
    for destination, value, in_its_place in untold:
        pairs = kept.setdefault(destination, [])
        # It was refused itself where it isn't there.
        number = next((at for at, one in enumerate(pairs) if one[1] is value), len(pairs))
        pairs[number : number + 1] = in_its_place
    for destination, record in elsewhere:
        kept.setdefault(destination, []).append(record)
    return {destination: pairs for destination, pairs in kept.items() if pairs}

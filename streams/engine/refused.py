"""Records that Kafka will never accept: each is replaced by what `Instead` returns for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from streams.engine.types import Header, Output
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
) -> dict[Destination, Sequence[ProducerRecord]]:
    """Return `records` with the refused ones replaced. `longest`: `max.message.bytes` by topic.
    `place`: returns the topic and partition of an output."""
    kept: dict[Destination, list[ProducerRecord]] = {
        destination: list(pairs) for destination, pairs in records.items()
    }
    elsewhere: list[tuple[Destination, ProducerRecord]] = []
    for (topic, partition), places in refused.refused.items():
        pairs = kept[topic, partition]
        for number in sorted(places, reverse=True):
            key, value, headers = pairs.pop(number)
            reason = type(refused.error).__name__
            limit = longest.get(topic)
            in_its_place: list[ProducerRecord] = []
            for output in instead(
                RefusedRecord(topic, partition, key, value, headers, reason, limit)
            ):
                record = output.key, output.value, output.headers
                if place(output) == (topic, partition):
                    in_its_place.append(record)
                else:
                    elsewhere.append((place(output), record))
            pairs[number:number] = in_its_place  # not behind what came after it
    for destination, record in elsewhere:
        kept.setdefault(destination, []).append(record)
    return {destination: pairs for destination, pairs in kept.items() if pairs}

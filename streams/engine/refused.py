"""What Kafka takes never: each such record is replaced by what its agent says instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from streams.engine.types import Output
from streams.kafka.producer import Destination, ProducerRecord, RefusedRecordsError


class RefusedRecord(NamedTuple):
    """One that was to be written, and why it can't be."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    reason: str
    """The broker's name for it."""
    longest: int | None
    """What the topic takes, in bytes, where that is known."""


Instead = Callable[[RefusedRecord], list[Output]]
"""Returns what is to be written in a record's place. What is refused again comes again."""


def without(
    records: Mapping[Destination, Sequence[ProducerRecord]],
    refused: RefusedRecordsError,
    *,
    instead: Instead,
    longest: Mapping[str, int],
    place: Callable[[Output], Destination],
) -> dict[Destination, Sequence[ProducerRecord]]:
    """Return what is to be committed with the refused records replaced. `place`: where an output
    goes."""
    kept: dict[Destination, list[ProducerRecord]] = {
        destination: list(pairs) for destination, pairs in records.items()
    }
    outputs: list[Output] = []
    for (topic, partition), places in refused.refused.items():
        pairs = kept[topic, partition]
        for number in sorted(places, reverse=True):
            key, value, headers = pairs.pop(number)
            reason = type(refused.error).__name__
            limit = longest.get(topic)
            outputs += instead(RefusedRecord(topic, partition, key, value, headers, reason, limit))
    for output in outputs:
        kept.setdefault(place(output), []).append((output.key, output.value, output.headers))
    return {destination: pairs for destination, pairs in kept.items() if pairs}

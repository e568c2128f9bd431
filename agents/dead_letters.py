"""Where what nobody can use goes: byte for byte, with where it came from and why."""

from datetime import UTC, datetime

from streams import metrics
from streams.engine.types import Output


def dead_letter(
    dead_letters: str,
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    reason: str,
) -> Output:
    """Return the record for the `dead_letters` topic. `reason`: one line that names the field."""
    metrics.DEAD_LETTERS.labels(topic, reason.partition(":")[0].partition("[")[0][:40]).inc()
    headers = {
        "dialwatch.topic": topic,
        "dialwatch.partition": str(partition),
        "dialwatch.offset": str(offset),
        "dialwatch.reason": " ".join(reason.split()),
        "dialwatch.at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    return Output(
        dead_letters,
        None,
        key,
        value,
        [(name, text.encode()) for name, text in headers.items()],
    )

"""Where what nobody can use goes: byte for byte, with where it came from and why."""

from datetime import UTC, datetime

from streams import metrics
from streams.engine.types import Output

# A reason may repeat what the record says: a megabyte of it would not fit beside the record.
_LONGEST_REASON = 300


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
    said = " ".join(reason.split())
    if len(said) > _LONGEST_REASON:
        said = f"{said[: _LONGEST_REASON - 1]}…"
    headers = {
        "dialwatch.topic": topic,
        "dialwatch.partition": str(partition),
        "dialwatch.offset": str(offset),
        "dialwatch.reason": said,
        "dialwatch.at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    return Output(
        dead_letters,
        None,
        key,
        value,
        # A reason may repeat half a surrogate pair.
        [(name, text.encode(errors="backslashreplace")) for name, text in headers.items()],
    )

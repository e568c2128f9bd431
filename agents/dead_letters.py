"""Dead letters: invalid records, byte for byte, with where they came from and why.

A letter's headers are the record's own and then a block of ours; whoever reads a letter takes it
apart with `own_headers` and `attempts_of`.
"""

from collections.abc import Iterable, Sequence

from agents import metrics
from streams.engine.types import Header, Output

ATTEMPTS = "dialwatch.attempts"
"""How often the record has become a dead letter: in a letter this time included, in a record
that is sent again so far."""
TRUNCATED = "dialwatch.truncated"
"""The length of a letter's value before it was cut to what its topic takes."""
_OURS = frozenset(
    {
        "dialwatch.topic",
        "dialwatch.partition",
        "dialwatch.offset",
        "dialwatch.reason",
        "dialwatch.at",
        TRUNCATED,
        ATTEMPTS,
    }
)
# A reason may repeat what the record says: a megabyte of it would not fit beside the record.
_LONGEST_REASON = 300
_LONGEST_NUMBER = 9


def dead_letter(
    dead_letters: str,
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    reason: str,
    at: str,
    headers: Iterable[Header] = (),
) -> Output:
    """Return the record for the `dead_letters` topic. `reason`: one line that names the field;
    `at`: this moment, see `format_moment`; `headers`: the record's."""
    metrics.DEAD_LETTERS.labels(topic, metrics.reason_of_letter(reason)).inc()
    said = " ".join(reason.split())
    if len(said) > _LONGEST_REASON:
        said = f"{said[: _LONGEST_REASON - 1]}…"
    came = list(headers)
    ours = {
        "dialwatch.topic": topic,
        "dialwatch.partition": str(partition),
        "dialwatch.offset": str(offset),
        "dialwatch.reason": said,
        "dialwatch.at": at,
    }
    before = attempts_of(came[-1:])
    if before:
        ours[ATTEMPTS] = str(before + 1)
        came.pop()
    return Output(
        dead_letters,
        None,
        key,
        value,
        [
            *came,
            # A reason may repeat half a surrogate pair.
            *((name, text.encode(errors="backslashreplace")) for name, text in ours.items()),
        ],
    )


def own_headers(headers: Sequence[Header]) -> list[Header]:
    """Return the headers of a letter's record, without the block of ours at the letter's end.

    Somebody's own header may have a name of ours: it stands before the block, and stays.
    """
    end, seen = len(headers), set()
    while end and headers[end - 1][0] in _OURS and headers[end - 1][0] not in seen:
        end -= 1
        seen.add(headers[end][0])
    return list(headers[:end])


def attempts_of(headers: Iterable[Header]) -> int:
    """Return how often a record was a dead letter, as its headers say; 0: they don't."""
    said = dict(headers).get(ATTEMPTS) or b""
    return int(said) if said.isdigit() and len(said) <= _LONGEST_NUMBER else 0

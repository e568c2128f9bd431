"""Commands in an analysis: filtering them, and turning them into rows."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from app.analysis.variants import Variant
from streams.times import DAY, parse_instant


class ToldCommand(msgspec.Struct, gc=False):
    """The fields of a command that an analysis uses."""

    notification_id: str
    scenario: str
    account_id: str | None
    channel: str
    occurred_at: str
    title: str = ""
    content: str = ""
    page: str | None = None
    cause: dict[str, Any] = {}


decode_command = msgspec.json.Decoder(ToldCommand).decode
_encode = msgspec.json.Encoder().encode
COLUMNS: dict[str, type] = {
    "notification_id": str, "scenario": str, "account_id": str, "channel": str, "occurred_at": str,
    "title": str, "content": str, "page": str, "cause": str,
}  # fmt: skip
VARIANT_COLUMNS: dict[str, type] = {"run_length": int, "window_hours": float}


def row_of(command: bytes) -> tuple[Any, ...]:
    """Return a command's values in the order of `COLUMNS`; the cause as JSON."""
    said = decode_command(command)
    return (
        said.notification_id, said.scenario, said.account_id, said.channel, said.occurred_at,
        said.title, said.content, said.page, _encode(said.cause).decode(),
    )  # fmt: skip


def beside_of(variant: Variant) -> bytes:
    """Return the beginning of the JSON object of a variant's command: the variant's own fields."""
    hours = str(variant.hours).encode()
    return b'"run_length":%d,"window_hours":%b,' % (variant.run_length, hours)


def with_variant(variant: Variant, command: bytes) -> bytes:
    """Return a command and its variant as one JSON object."""
    return b'{%b"command":%b}' % (beside_of(variant), command)


@dataclass(frozen=True)
class CommandFilter:
    """Which commands to show. (Everything is folded in any case.)"""

    since: int | None = None
    until: int | None = None
    """The range of the cause's instant: `since` inclusive, `until` exclusive."""
    scenarios: frozenset[str] = frozenset()
    account: str | None = None

    @property
    def is_all(self) -> bool:
        return self == CommandFilter()

    def has(self, said: ToldCommand, at: int) -> bool:
        """Is a command, which occurred at the instant `at`, wanted?"""
        return (
            (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and (not self.scenarios or said.scenario in self.scenarios)
            and (self.account is None or said.account_id == self.account)
        )

    def is_apart(self, span: tuple[int, int] | None) -> bool:
        """Does the range miss a span of instants by more than a day? None: there is no span.

        Whoever asks for what is beside the records, or between two, is answered that nothing is
        there; whoever is further off has mistaken the date, or the installation.
        """
        if span is None or (self.since is None and self.until is None):
            return self.since is not None or self.until is not None
        return (self.since is not None and self.since > span[1] + DAY) or (
            self.until is not None and self.until < span[0] - DAY
        )


def instant_of_command(said: ToldCommand) -> int:
    """Return the instant at which a command occurred."""
    return parse_instant(said.occurred_at)


class _Times(msgspec.Struct, gc=False):
    """The fields of records that say when something happened."""

    # Each is of some records only; in others it is a field that nobody knows.
    ended_at: Any = None
    completed_at: Any = None
    at: Any = None
    published_at: Any = None
    occurred_at: Any = None


_decode_times = msgspec.json.Decoder(_Times).decode


def own_instants(value: bytes | None) -> Iterator[int]:
    """Yield the instants at which what a record tells happened; none where it is invalid."""
    try:
        said = msgspec.structs.astuple(_decode_times(value or b""))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    for text in said:
        if isinstance(text, str):
            with suppress(ValueError):
                yield parse_instant(text)

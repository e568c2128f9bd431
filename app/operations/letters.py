"""Dead letters: finding and reading them, and the marks of those that were handled.

A compacted topic of the group has a mark for each letter that was handled. The letters themselves
are never changed, because other systems read them too.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from agents.dead_letters import attempts_of
from app.errors import CommandError, SettingsError
from app.operations.installation import Installation
from app.operations.masks import masked
from app.settings import Settings
from streams.decoding import InvalidRecordError, decode_notification
from streams.engine.types import TP, Header
from streams.kafka.log_scan import BEGINNING, END
from streams.times import SECOND, format_instant, parse_instant
from streams.topics import Topics

USUAL_ROWS = 100
MOST_ROWS = 100_000
_EARLIER = 60 * SECOND
_PLACE = re.compile(r"(\d{1,18}):(\d{1,18})", re.ASCII)


class Mark(msgspec.Struct, omit_defaults=True):
    """What was done with a letter. Persisted: append fields only, with defaults."""

    handled: str
    """`redriven` or `discarded`."""
    letter_at: int
    """The letter's own timestamp (ms): in a topic made anew another letter may have its offset."""
    at: str = ""
    why: str | None = None


Marks = dict[TP, dict[int, Mark]]
"""Partition → offset of the letter → its mark."""

_encode_mark = msgspec.json.Encoder().encode
_decode_mark = msgspec.json.Decoder(Mark).decode


@dataclass(frozen=True)
class Letter:
    """One dead letter in Kafka."""

    tp: TP
    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    handled: str | None

    @property
    def name(self) -> str:
        return letter_name(self.tp, self.offset)

    def said(self, header: str) -> str | None:
        """Return the text of one of our headers; None: it is missing. The last one of that name
        counts, because the record's own headers come first."""
        found = [value for name, value in self.headers if name == header]
        return (found[-1] or b"").decode(errors="replace") if found else None

    @property
    def topic(self) -> str:
        """The real name of the topic that it came from; empty: unknown."""
        return self.said("dialwatch.topic") or ""

    @property
    def partition(self) -> int:
        return _number(self.said("dialwatch.partition"))

    @property
    def origin(self) -> int:
        """Its offset in the topic that it came from."""
        return _number(self.said("dialwatch.offset"))

    @property
    def reason(self) -> str:
        return self.said("dialwatch.reason") or ""

    @property
    def attempts(self) -> int:
        """How often the record has become a dead letter, this time included."""
        return attempts_of(self.headers) or 1

    @property
    def is_truncated(self) -> bool:
        return self.said("dialwatch.truncated") is not None

    @property
    def at(self) -> int:
        """The instant at which it became a dead letter."""
        try:
            return parse_instant(self.said("dialwatch.at") or "")
        except ValueError:
            return self.timestamp * 1000


@dataclass(frozen=True)
class LetterFilter:
    """Which letters are wanted. `topic`: real or contract name; `reason`: a part of the text, upper
    or lower case; `since`, `until`: instants."""

    topic: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
    limit: int = USUAL_ROWS
    with_handled: bool = False

    def has(self, letter: Letter, prefix: str) -> bool:
        """Is a letter wanted? `prefix`: the prefix of the installation's topic names."""
        if not self.with_handled and letter.handled is not None:
            return False
        if self.topic is not None and letter.topic not in {self.topic, f"{prefix}{self.topic}"}:
            return False
        if self.reason is not None and self.reason.lower() not in letter.reason.lower():
            return False
        is_late_enough = self.since is None or letter.at >= self.since
        return is_late_enough and (self.until is None or letter.at < self.until)


def describe(settings: Settings, letter: Letter, *, reveal: bool = False) -> dict[str, Any]:
    """Return a letter as `dialwatch dlq list` prints it."""
    return {
        "letter": letter.name,
        "at": format_instant(letter.at, settings.zone),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.origin,
        "reason": letter.reason,
        "key": _shown_key(settings.topics, letter, reveal=reveal),
        "bytes": len(letter.value or b""),
        "attempts": letter.attempts,
        "handled": letter.handled,
    }


async def find_letters(
    installation: Installation, wanted: LetterFilter, *, reveal: bool = False
) -> list[dict[str, Any]]:
    """Return letters as `dialwatch dlq list` prints them, newest first."""
    tps = installation.partitions(installation.topics.dead_letters)
    marks = await read_marks(installation)
    logs = installation.logs
    begins = await logs.offsets(tps, _timestamp(wanted.since, BEGINNING))
    ends = await logs.offsets(tps, END)

    async def newest(tp: TP) -> list[Letter]:
        found: list[Letter] = []
        async for records in logs.scan_back(tp, begins[tp], ends[tp]):
            for record in records:
                letter = letter_of(tp, record, marks)
                if wanted.has(letter, installation.topics.prefix):
                    found.append(letter)
                    if len(found) == wanted.limit:
                        return found
        return found

    parts = await asyncio.gather(*map(newest, tps))
    letters = sorted(
        (letter for part in parts for letter in part),
        key=lambda letter: (letter.at, letter.tp.partition, letter.offset),
        reverse=True,
    )
    return [describe(installation.settings, one, reveal=reveal) for one in letters[: wanted.limit]]


async def read_letter(installation: Installation, name: str, marks: Marks | None = None) -> Letter:
    """Return one letter with its bytes, handled or not. `marks`: if they were read already.
    Raises SettingsError where `name` is no
    letter's, CommandError where there is none, or none any more."""
    tp, offset = place_of(installation, name)
    logs = installation.logs
    begins, ends = await logs.offsets([tp], BEGINNING), await logs.offsets([tp], END)
    if offset < begins[tp]:
        raise CommandError(
            f"letter {name} is gone: retention deleted what lay before {tp.partition}:{begins[tp]}"
        )
    end = min(offset + 1, ends[tp])
    if marks is None:
        marks = await read_marks(installation)
    if offset < end:
        async for records in logs.scan(tp, offset, end):
            for record in records:
                return letter_of(tp, record, marks)
    raise CommandError(f"there is no letter {name}: dialwatch dlq list --all shows what there is")


def letter_name(tp: TP, offset: int) -> str:
    """Return a letter's name, `PARTITION:OFFSET`, such as `0:17`."""
    return f"{tp.partition}:{offset}"


def place_of(installation: Installation, name: str) -> tuple[TP, int]:
    """Return the partition and offset of a letter's name. Raises SettingsError where it is none,
    CommandError where there is no such partition."""
    partition, offset = parse_place(name)
    tps = installation.partitions(installation.topics.dead_letters)
    if partition >= len(tps):
        raise CommandError(
            f"there is no letter {name}: {tps[0].topic} has {len(tps)} partitions, from 0 on"
        )
    return tps[partition], offset


def parse_place(name: str) -> tuple[int, int]:
    """Return the numbers of partition and offset of a letter's name. Raises SettingsError where it
    is none."""
    place = _PLACE.fullmatch(name)
    if place is None:
        raise SettingsError([f"LETTER: {name!r} is no letter, which are named as 0:17"])
    return int(place[1]), int(place[2])


async def letters_between(
    installation: Installation, tp: TP, begin: int, end: int, marks: Marks
) -> AsyncIterator[Letter]:
    """Yield a partition's letters between two offsets, in order."""
    async for records in installation.logs.scan(tp, begin, end):
        for record in records:
            yield letter_of(tp, record, marks)


def letter_of(tp: TP, record: Any, marks: Marks) -> Letter:
    """Return the letter of a record of `dead-letters`."""
    mark = marks.get(tp, {}).get(record.offset)
    is_its = mark is not None and mark.letter_at == record.timestamp
    return Letter(
        tp,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        list(record.headers),
        mark.handled if mark is not None and is_its else None,
    )


async def read_marks(installation: Installation) -> Marks:
    """Read and return all marks."""
    topic, dead = installation.topics.handled_letters, installation.topics.dead_letters
    if topic not in installation.counts:
        return {}
    tps, logs = installation.partitions(topic), installation.logs
    begins, ends = await logs.offsets(tps, BEGINNING), await logs.offsets(tps, END)
    found: Marks = {}

    async def read(tp: TP) -> None:
        async for records in logs.scan(tp, begins[tp], ends[tp]):
            for record in records:
                partition, _, offset = (record.key or b"").decode().partition(":")
                marks = found.setdefault(TP(dead, int(partition)), {})
                if record.value is None:
                    marks.pop(int(offset), None)
                else:
                    marks[int(offset)] = _decode_mark(record.value)

    await asyncio.gather(*map(read, tps))
    return found


def is_handled(letter: Letter, marks: Marks) -> bool:
    """Does a letter have a mark, with its own timestamp?"""
    mark = marks.get(letter.tp, {}).get(letter.offset)
    return mark is not None and mark.letter_at == letter.timestamp


def mark_record(letter: Letter, mark: Mark) -> tuple[bytes, bytes]:
    """Return key and value of a letter's mark."""
    return letter.name.encode(), _encode_mark(mark)


def text_of(raw: bytes | None) -> str | dict[str, str] | None:
    """Return bytes for JSON: text where they are UTF-8, else `{"base64": …}`."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _shown_key(topics: Topics, letter: Letter, *, reveal: bool) -> Any:
    """Return a letter's key for JSON. The key of a command may be an openid, and then is masked."""
    key = text_of(letter.key)
    is_account = letter.topic in {
        topics.calls, topics.recharges, topics.accounts, topics.announcements, topics.ticks
    }  # fmt: skip
    if reveal or is_account or not isinstance(key, str):
        return key
    try:
        if decode_notification(letter.key, letter.value).account_id == key:
            return key
    except InvalidRecordError:
        pass
    return masked(key)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else -1


def _timestamp(instant: int | None, otherwise: int) -> int:
    return otherwise if instant is None else max(0, (instant - _EARLIER) // 1000)

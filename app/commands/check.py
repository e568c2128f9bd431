"""`dialwatch check`: which records of a file the worker would call invalid, and why.

The records go through the worker's own folds, in memory and in the order of the file. So errors
that only show with earlier records (a batch whose size changed) are found too. Opens no connection.
"""

import json
import sys
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import msgspec

from agents.register import dispatching, watching
from agents.rules import Rules
from app.errors import SettingsError
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Header, Output, Record
from streams.records import encode
from streams.topics import ContractTopic, Topics

CHECKED: dict[ContractTopic, str | None] = {
    ContractTopic.CALL_RECORDS: "account_id",
    ContractTopic.RECHARGES: "account_id",
    ContractTopic.ACCOUNTS: "account_id",
    ContractTopic.ANNOUNCEMENTS: "announcement_id",
    ContractTopic.TICKS: None,
    ContractTopic.NOTIFICATIONS: "account_id",
}
"""The topics that others publish to → the field that a record's key must equal."""

_NO_TIMESTAMP = -1  # Kafka's value for it
# How many records are folded between two seals: unsealed changes cost memory.
_SEAL_EVERY = 10_000


@dataclass(slots=True)
class _Line:
    """A record with the fields that folds use; its offset is its line number."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = _NO_TIMESTAMP
    headers: Sequence[Header] = ()


class Invalid(NamedTuple):
    """One record that the worker would put into `dead-letters`."""

    line: int
    topic: str
    key: str
    reason: str


class UnreadableLineError(ValueError):
    """A line isn't a record in any of the formats."""


def run_check(file: BinaryIO, name: str, *, topic: str, rules: Rules, as_json: bool) -> int:
    """Print a line for each invalid record of a file. Return 1 if there is any, else 0.

    `topic`: the topic (contract name) of lines that don't name one. Raises SettingsError where
    others don't publish to it.
    """
    check_topic(topic)
    checker = Checker(rules, ContractTopic(topic))
    found = 0
    for invalid in checker.invalid_of(file):
        found += 1
        if as_json:
            sys.stdout.buffer.write(encode(invalid._asdict()) + b"\n")
        else:
            print(f"{name}:{invalid.line}: {invalid.topic}: {invalid.reason}")
    print(f"{checker.records} records, {found} invalid", file=sys.stderr)
    return 1 if found else 0


def check_topic(topic: str) -> None:
    """Raise SettingsError where others don't publish to a topic."""
    if topic not in {one.value for one in CHECKED}:
        known = ", ".join(CHECKED)
        raise SettingsError([f"--topic: {topic!r} is none that others publish to: {known}"])


class Checker:
    """The worker's folds over the lines of files."""

    def __init__(self, rules: Rules, topic: ContractTopic) -> None:
        """`topic`: the topic of lines that don't name one."""
        self.records = 0
        self._default = topic
        self._topics = Topics("", "check", 1)
        sources = [*watching(rules, self._topics), dispatching(rules, self._topics)]
        self._folds = {source.topic: source.fold for source in sources}
        self._state = State(0)
        self._buried: list[Output] = []

    def invalid_of(self, lines: Iterable[bytes]) -> Iterator[Invalid]:
        """Yield the invalid records, in the order of their lines. Empty lines are ignored."""
        for number, line in enumerate(lines, 1):
            text = line.strip(b" \r\n")
            if not text:
                continue
            self.records += 1
            try:
                topic, record = self._record_of(number, text)
            except UnreadableLineError as error:
                yield Invalid(number, self._default.value, "", str(error))
                continue
            reason = self._fold(topic, record)
            if reason is not None:
                key = (record.key or b"").decode(errors="replace")
                yield Invalid(number, topic.value, key, reason)

    def _fold(self, topic: ContractTopic, record: _Line) -> str | None:
        """Return why the record is invalid; None: it is valid."""
        tp = TP(topic.value, 0)
        records: list[Record] = [record]
        self._folds[topic.value](Chunk(tp, records, self._state, self._emit, _nothing))
        if self.records % _SEAL_EVERY == 0:
            self._state.seal()
            self._state.apply()
        reason = None
        for letter in self._buried:
            reason = (dict(letter.headers)["dialwatch.reason"] or b"").decode()
        self._buried.clear()
        return reason

    def _emit(self, output: Output) -> None:
        if output.topic == self._topics.dead_letters:
            self._buried.append(output)

    def _record_of(self, number: int, line: bytes) -> tuple[ContractTopic, _Line]:
        """Parse a line: `topic<TAB>key<TAB>value`, `key<TAB>value`, a value, or an exported one."""
        columns = line.split(b"\t") if line[:1] not in b"{[" else [line]
        if len(columns) == 3:
            topic = _topic_of(columns[0].decode(errors="replace"))
            return topic, _Line(number, columns[1] or None, columns[2] or None)
        if len(columns) == 2:
            return self._default, _Line(number, columns[0] or None, columns[1] or None)
        if len(columns) > 3:
            raise UnreadableLineError("line: has more than topic, key and value between its tabs")
        exported = _exported(line)
        if exported is not None:
            topic = _topic_of(str(exported["topic"]))
            stamp = exported.get("timestamp")
            return topic, _Line(
                number,
                _bytes_of("key", exported.get("key")),
                _bytes_of("value", exported["value"]),
                stamp if isinstance(stamp, int) else _NO_TIMESTAMP,
            )
        return self._default, _Line(number, _key_of(self._default, line), line)


def _topic_of(name: str) -> ContractTopic:
    for topic in CHECKED:
        if topic.value == name:
            return topic
    raise UnreadableLineError(f"topic: {name[:60]!r} is none that others publish to")


def _exported(line: bytes) -> dict[str, object] | None:
    """Parse a line of `dialwatch export`; None: the line is a record's value."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_export = isinstance(said, dict) and {"topic", "offset", "value"} <= said.keys()
    return said if is_export else None


def _bytes_of(column: str, said: object) -> bytes | None:
    """Return the bytes of an export's key or value: text, `{"base64": …}` or null."""
    match said:
        case None:
            return None
        case str():
            return said.encode(errors="surrogatepass")
        case {"base64": str(text)}:
            try:
                return b64decode(text, validate=True)
            except Base64Error:
                pass
    raise UnreadableLineError(f'{column}: is neither text nor {{"base64": …}}')


def _key_of(topic: ContractTopic, value: bytes) -> bytes | None:
    """Return the key that a value must have, so that only errors of the value are found."""
    field = CHECKED[topic]
    try:
        said = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    key = said.get(field) if field is not None and isinstance(said, dict) else None
    return key.encode() if isinstance(key, str) else None


def _nothing() -> None:
    """Do nothing: there is no commit to hurry."""

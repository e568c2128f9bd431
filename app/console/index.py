"""Writing the index: the records of a poll and the offsets reached, in one transaction.

One thread writes. A record that can't be read is skipped. No Kafka client is used here.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from app.console import schema
from app.operations.commands import read_command
from app.operations.letters import Letter, Mark, describe, letter_of
from app.settings import Settings
from streams.decoding import CallsParsed
from streams.engine.types import TP
from streams.times import DAY, SECOND, parse_instant
from streams.topics import CHANGELOG_DELETIONS_KEPT_SECONDS
from tables.batches import Batch
from tables.lines import LineRun
from tables.state_tables import BATCHES, CLOCKS, LINES, OWNED, PARKED, TALLIES
from tables.tallies import Tally

log = logging.getLogger(__name__)

MINUTE = 60 * SECOND
RATES_KEPT = 2 * DAY
# Half: whoever goes on needs some time for it.
_STATE_STANDS = CHANGELOG_DELETIONS_KEPT_SECONDS * SECOND // 2

_LAST_INSTANT = parse_instant("9999-12-30T00:00:00Z")

_MOST_TITLES = 60_000
_MOST_ORPHANS = 10_000
_MOST_KINDS = 20_000
_HEXADECIMAL = re.compile(r"(?:[0-9a-f]{2}){8,32}")
# What is shown of accounts and lines. (Which batches are parked their own keys say.)
_STATE_KEPT = frozenset(OWNED - {PARKED.prefix} | {CLOCKS.prefix})
# Also what is nested so deeply that no decoder goes down to its end.
_UNREADABLE = (ValueError, RecursionError)
_ADD_ONE = """INSERT INTO {table} VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET row_count = row_count + excluded.row_count"""

V = TypeVar("V")

Place = tuple[int, int, int]
"""A delivery's (instant, partition, offset). Lists are in this order, newest first."""


class PolledRecords(NamedTuple):
    """The records of one partition that a poll brought."""

    holds: str
    """`commands`, `deliveries`, `inbox`, `letters`, `marks` or `state`."""
    topic: str
    partition: int
    records: Sequence[Any]


class Kind(NamedTuple):
    """The fields that many deliveries have in common: there are few combinations, stored once."""

    scenario: str
    channel: str
    status: str
    error_code: int | None = None
    error: str | None = None
    title: str | None = None


_Integer = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""One that SQLite can store."""


class _Delivery(Struct):
    notification_id: str
    scenario: str
    channel: str
    status: str
    at: str
    account_id: str | None = None
    attempts: _Integer = 0
    provider_id: str | int | None = None
    error_code: _Integer | None = None
    error: str | None = None


class _Message(Struct):
    message_id: str


def packed(notification_id: str) -> str | bytes:
    """Return an id as the index stores it: as bytes, half as long, where it is a hash."""
    if _HEXADECIMAL.fullmatch(notification_id):
        return bytes.fromhex(notification_id)
    return notification_id


def unpacked(stored: str | bytes) -> str:
    """The inverse of `packed`."""
    return stored.hex() if isinstance(stored, bytes) else stored


def written_at(record: Any) -> int:
    """Return the instant at which a record was written, as it says; at most the last that can be
    shown: another system's may have a timestamp in units of its own."""
    return min(int(record.timestamp) * 1000, _LAST_INSTANT)


class Recent(Generic[V]):
    """A cache of the values put in last: between `most` and twice as many. Drops half at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[str | bytes, V] = {}
        self._old: dict[str | bytes, V] = {}

    def get(self, key: str | bytes) -> V | None:
        value = self._young.get(key)
        return self._old.get(key) if value is None else value

    def put(self, key: str | bytes, value: V) -> None:
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def pop(self, key: str | bytes) -> V | None:
        young, old = self._young.pop(key, None), self._old.pop(key, None)
        return old if young is None else young


class Index:
    """Writes the index. All methods block. Only one thread at a time may use it."""

    def __init__(self, settings: Settings, *, segment_rows: int = schema.SEGMENT_ROWS) -> None:
        self._settings = settings
        self._segment_rows = segment_rows
        identity = f"{settings.group}/{settings.topic_prefix}"
        self._db = schema.open_writer(settings.console_datadir, identity)
        self._retention = settings.console_retention_days * DAY
        self.unreadable = 0
        """How many records were skipped since the start."""
        self._deliveries = msgspec.json.Decoder(_Delivery).decode
        self._messages = msgspec.json.Decoder(_Message).decode
        self._marks = msgspec.json.Decoder(Mark).decode
        self._instants = CallsParsed().instants
        self._kinds: dict[Kind, int] = {}
        self._titles: Recent[str] = Recent(_MOST_TITLES)
        self._orphans: Recent[list[tuple[int, Place, Kind]]] = Recent(_MOST_ORPHANS)
        """Deliveries that came before their commands, which have the title."""
        self._segments: dict[str, list[int]] = {}
        self._filled: dict[int, int] = {}
        self._load_segments()

    def close(self) -> None:
        """Close the database; all its content is then in its main file."""
        self._db.close()

    def offsets(self) -> dict[tuple[str, int], int]:
        """Return the next offset to read, by topic and partition."""
        rows = self._db.execute("SELECT topic, partition, next FROM offsets")
        return {(topic, partition): offset for topic, partition, offset in rows}

    def forget_old_state(self, now: int) -> None:
        """Let the changelog be read from its beginning where it wasn't followed for so long that a
        deletion may have left no trace in it. `now`: an instant."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'up_to_date'").fetchone()
        if row and now - int(row[0]) < _STATE_STANDS:
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM state")
        self._db.execute("DELETE FROM offsets WHERE topic = ?", (self._settings.topics.changelog,))
        self._db.execute("COMMIT")

    def note_up_to_date(self, now: int) -> None:
        """Remember when everything that the topics held was in the index."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('up_to_date', ?)", (str(now),))

    def write(self, chunks: Iterable[PolledRecords], positions: dict[tuple[str, int], int]) -> None:
        """Index records and store the next offsets to read, as one transaction.

        Commands are indexed before the deliveries of the same poll, which need their titles.
        """
        by_kind: dict[str, list[PolledRecords]] = {}
        for chunk in chunks:
            by_kind.setdefault(chunk.holds, []).append(chunk)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for holds, index in (
                ("commands", self._add_commands),
                ("deliveries", self._add_deliveries),
                ("inbox", self._add_messages),
                ("marks", self._add_marks),
                ("letters", self._add_letters),
                ("state", self._add_state),
            ):
                if holds in by_kind:
                    index(by_kind[holds])
            self._db.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
                [(topic, partition, offset) for (topic, partition), offset in positions.items()],
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._forget_what_is_cached()
            raise

    def add_lags(self, at: int, lags: Iterable[tuple[str, int, float | None]]) -> None:
        """Store how far the group was behind: (topic, records, seconds)."""
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO lags VALUES (?, ?, ?, ?)", [(at, *lag) for lag in lags]
            )

    def mark(self, letters: Iterable[tuple[int, int]], handled: str) -> None:
        """Mark dead letters as handled at once; the mark in Kafka is read a moment later."""
        self._db.executemany(
            "UPDATE letters SET handled = ? WHERE (p, o) = (?, ?) AND handled IS NULL",
            [(handled, *letter) for letter in letters],
        )

    def forget(self, now: int) -> None:
        """Delete what is older than the retention: whole segments where possible, else rows."""
        floor = now - self._retention
        for number, holds, last in self._db.execute(
            "SELECT id, holds, last_at FROM segments WHERE first_at < ?", (floor,)
        ).fetchall():
            self._db.execute("BEGIN IMMEDIATE")
            if last < floor and number != self._segments[holds][-1]:
                self._db.execute(f"DROP TABLE {holds}_{number}")
                self._db.execute("DELETE FROM segments WHERE id = ?", (number,))
                self._db.execute("DELETE FROM segment_kinds WHERE segment = ?", (number,))
                self._segments[holds].remove(number)
            elif holds == "deliveries":
                self._db.execute(f"DELETE FROM deliveries_{number} WHERE at < ?", (floor,))
                self._db.execute("DELETE FROM segment_kinds WHERE segment = ?", (number,))
                self._db.execute(
                    f"INSERT INTO segment_kinds SELECT ?, kind, count(*) FROM deliveries_{number} "
                    "GROUP BY kind",
                    (number,),
                )
                self._db.execute("UPDATE segments SET first_at = ? WHERE id = ?", (floor, number))
            self._db.execute("COMMIT")
        self._db.execute("DELETE FROM letters WHERE at < ?", (floor,))
        self._db.execute("DELETE FROM minutes WHERE minute < ?", ((now - RATES_KEPT) // MINUTE,))
        self._db.execute("DELETE FROM lags WHERE at < ?", (now - RATES_KEPT,))

    def _add_commands(self, chunks: list[PolledRecords]) -> None:
        rows: list[tuple[Any, ...]] = []
        times: list[int] = []
        for chunk in chunks:
            for record in chunk.records:
                try:
                    said = read_command(record.key, record.value)
                    stored = packed(said.notification_id)
                    occurred = self._instants[said.occurred_at]
                except _UNREADABLE:
                    self.unreadable += 1
                    continue
                kind = self._kind(Kind(said.scenario, said.channel, "", title=said.title))
                call = said.cause.call_id if said.cause else None
                call = call if isinstance(call, str) else None
                rows.append(
                    (chunk.partition, record.offset, stored, said.account_id, kind, occurred, call)
                )
                times.append(written_at(record))
                if said.title is not None:
                    self._titles.put(stored, said.title)
                    self._adopt(self._orphans.pop(stored) or [], said.title)
        self._insert("commands", rows, times)

    def _add_deliveries(self, chunks: list[PolledRecords]) -> None:
        rows: list[tuple[Any, ...]] = []
        minutes: Counter[tuple[int, int]] = Counter()
        kinds: Counter[int] = Counter()
        segment = self._segment("deliveries")
        for chunk in chunks:
            for record in chunk.records:
                try:
                    said = self._deliveries(record.value or b"")
                    at = self._instants[said.at]
                    stored = packed(said.notification_id)
                except _UNREADABLE:
                    self.unreadable += 1
                    continue
                place = at, chunk.partition, record.offset
                kind = Kind(
                    said.scenario, said.channel, said.status, said.error_code, said.error,
                    self._title(stored),
                )  # fmt: skip
                if kind.title is None:
                    orphans = self._orphans.get(stored) or []
                    self._orphans.put(stored, [*orphans, (segment, place, kind)])
                number = self._kind(kind)
                provider = None if said.provider_id is None else str(said.provider_id)
                rows.append((*place, stored, said.account_id, number, said.attempts, provider))
                kinds[number] += 1
                minutes[at // MINUTE, number] += 1
        self._insert("deliveries", rows, [row[0] for row in rows])
        self._count(segment, kinds, minutes)

    def _count(self, segment: int, kinds: Counter[int], minutes: Counter[tuple[int, int]]) -> None:
        self._db.executemany(
            _ADD_ONE.format(table="segment_kinds"),
            [(segment, kind, count) for kind, count in kinds.items()],
        )
        self._db.executemany(
            _ADD_ONE.format(table="minutes"), [(*key, count) for key, count in minutes.items()]
        )

    def _adopt(self, orphans: list[tuple[int, Place, Kind]], title: str) -> None:
        """Set the title of deliveries whose command came after them."""
        for segment, place, kind in orphans:
            before, after = self._kind(kind), self._kind(kind._replace(title=title))
            self._db.execute(
                f"UPDATE deliveries_{segment} SET kind = ? WHERE (at, p, o) = (?, ?, ?)",
                (after, *place),
            )
            minute = place[0] // MINUTE
            self._count(
                segment,
                Counter({before: -1, after: 1}),
                Counter({(minute, before): -1, (minute, after): 1}),
            )

    def _add_messages(self, chunks: list[PolledRecords]) -> None:
        rows: list[tuple[Any, ...]] = []
        times: list[int] = []
        for chunk in chunks:
            for record in chunk.records:
                try:
                    said = self._messages(record.value or b"")
                except _UNREADABLE:
                    self.unreadable += 1
                    continue
                rows.append((chunk.partition, record.offset, packed(said.message_id)))
                times.append(written_at(record))
        self._insert("inbox", rows, times)

    def _add_letters(self, chunks: list[PolledRecords]) -> None:
        rows = [
            _letter_row(self._settings, letter_of(TP(chunk.topic, chunk.partition), record, {}))
            for chunk in chunks
            for record in chunk.records
        ]
        self._db.executemany(
            "INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", rows
        )
        self._match_marks(row[:2] for row in rows)

    def _add_marks(self, chunks: list[PolledRecords]) -> None:
        places = []
        for chunk in chunks:
            for record in chunk.records:
                try:
                    partition, offset = map(int, (record.key or b"").split(b":"))
                    mark = None if record.value is None else self._marks(record.value)
                except _UNREADABLE:
                    self.unreadable += 1
                    continue
                places.append((partition, offset))
                if mark is None:
                    self._db.execute("DELETE FROM marks WHERE (p, o) = (?, ?)", places[-1])
                else:
                    self._db.execute(
                        "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)",
                        (*places[-1], mark.letter_at, mark.handled, mark.why),
                    )
        self._match_marks(places)

    def _match_marks(self, places: Iterable[tuple[int, int]]) -> None:
        # The time must match too: in a topic made anew another letter may have the same offset.
        self._db.executemany(
            "UPDATE letters SET handled = (SELECT handled FROM marks WHERE (marks.p, marks.o, "
            "marks.written) = (letters.p, letters.o, letters.written)) WHERE (p, o) = (?, ?)",
            places,
        )

    def _add_state(self, chunks: list[PolledRecords]) -> None:
        """Store only the last value of each key, in the order of keys, which disks do fastest."""
        latest: dict[tuple[int, bytes], bytes | None] = {}
        for chunk in chunks:
            for record in chunk.records:
                key = record.key
                if key and key[:1] in _STATE_KEPT:
                    latest[chunk.partition, key] = record.value
        gone = [key for key, value in latest.items() if value is None]
        kept = sorted((key, value) for key, value in latest.items() if value is not None)
        self._db.executemany("DELETE FROM state WHERE partition = ? AND key = ?", gone)
        self._db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?)",
            [(*key, value, *self._listed(key[1], value)) for key, value in kept],
        )

    def _listed(self, key: bytes, value: bytes) -> tuple[int | None, int | None, int | None]:
        """Return a run's count, a batch's instant, and whether calls of the batch are missing; None
        for what a value isn't."""
        prefix = key[:1]
        batch: Batch | None
        try:
            if prefix == TALLIES.prefix:
                tally: Tally = TALLIES.decode(value)
                batch, submitted, run = tally.batch, tally.submitted, tally.run.count
            elif prefix == BATCHES.prefix:
                batch, run = BATCHES.decode(value), 0
                submitted = int.from_bytes(key[-8:], "big", signed=True)
            elif prefix == LINES.prefix:
                line: LineRun = LINES.decode(value)
                batch, submitted, run = None, 0, line.run.count
            else:
                return None, None, None
        except msgspec.DecodeError:
            self.unreadable += 1
            return None, None, None
        if batch is None:
            return run, None, None
        return run, submitted, int(batch.seen < batch.size)

    def _insert(self, holds: str, rows: list[tuple[Any, ...]], times: list[int]) -> None:
        if not rows:
            return
        number = self._segment(holds)
        marks = ", ".join("?" * len(rows[0]))
        # In the order of the table's key, so that neighbouring rows go to the same page.
        rows.sort(key=lambda row: row[:3] if holds == "deliveries" else row[:2])
        self._db.executemany(f"INSERT OR IGNORE INTO {holds}_{number} VALUES ({marks})", rows)
        self._db.execute(
            "UPDATE segments SET row_count = row_count + ?1, "
            "first_at = min(coalesce(first_at, ?2), ?2), last_at = max(coalesce(last_at, ?3), ?3) "
            "WHERE id = ?4",
            (len(rows), min(times), max(times), number),
        )
        self._filled[number] += len(rows)

    def _segment(self, holds: str) -> int:
        """Return the segment that is being filled."""
        ours = self._segments[holds]
        if ours and self._filled[ours[-1]] < self._segment_rows:
            return ours[-1]
        number = max(self._filled, default=0) + 1
        schema.create_segment(self._db, number, holds)
        ours.append(number)
        self._filled[number] = 0
        return number

    def _title(self, stored: str | bytes) -> str | None:
        """Return the title of a notification; None: its command isn't indexed (yet)."""
        known = self._titles.get(stored)
        if known is not None:
            return known
        for number in reversed(self._segments["commands"]):
            row = self._db.execute(
                f"SELECT title FROM commands_{number} JOIN kinds ON kinds.id = kind "
                f"WHERE commands_{number}.id = ?",
                (stored,),
            ).fetchone()
            if row:
                title: str | None = row[0]
                return title
        return None

    def _kind(self, kind: Kind) -> int:
        number = self._kinds.get(kind)
        if number is not None:
            return number
        row = self._db.execute(
            "SELECT id FROM kinds WHERE (scenario, channel, status) = (?, ?, ?) "
            "AND error_code IS ? AND error IS ? AND title IS ?",
            kind,
        ).fetchone()
        if row is None:
            cursor = self._db.execute("INSERT INTO kinds VALUES (NULL, ?, ?, ?, ?, ?, ?)", kind)
            number = cursor.lastrowid or 0
        else:
            number = int(row[0])
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = number
        return number

    def _forget_what_is_cached(self) -> None:
        """Clear the caches after a failed transaction: they may hold rows that it didn't write."""
        self._kinds.clear()
        self._titles = Recent(_MOST_TITLES)
        self._orphans = Recent(_MOST_ORPHANS)
        self._load_segments()

    def _load_segments(self) -> None:
        self._segments = {"deliveries": [], "commands": [], "inbox": []}
        self._filled = {}
        for number, holds, row_count in self._db.execute(
            "SELECT id, holds, row_count FROM segments ORDER BY id"
        ):
            self._segments[holds].append(number)
            self._filled[number] = row_count


def _letter_row(settings: Settings, letter: Letter) -> tuple[Any, ...]:
    """Return the row of a dead letter: as lists show it, with its key masked if necessary."""
    said = describe(settings, letter)
    return (
        letter.tp.partition,
        letter.offset,
        letter.at,
        letter.timestamp,
        said["topic"],
        said["partition"],
        said["offset"],
        said["reason"],
        msgspec.json.encode(said["key"]).decode(),
        said["bytes"],
        said["attempts"],
    )

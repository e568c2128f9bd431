"""Reading the index. Blocks for milliseconds; each thread has a connection of its own.

Lists are newest first and come in pages. A page's cursor is the place of its last row.
"""

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from app.console import schema
from app.console.index import MINUTE, Place, packed, unpacked
from app.settings import Settings
from streams.times import DAY
from tables.remembered import belongs_to

T = TypeVar("T")

MOST_ROWS = 1000
MADE_SECONDS = 5.0
"""How long to wait for an index that is being made."""
_FEW_KINDS = 60
_ID_PREFIX = re.compile(r"[!-~]{4,64}")
_AFTER_ALL: Place = (1 << 62, 0, 0)


class BadCursorError(ValueError):
    """A text isn't a cursor of any page."""


@dataclass(frozen=True)
class Filters:
    """Which deliveries are wanted; None: any."""

    account: str | None = None
    notification: str | None = None
    scenario: str | None = None
    channel: str | None = None
    status: str | None = None
    since: int | None = None
    until: int | None = None
    q: str | None = None
    """Text to find in the title or the error, or at the beginning of an id."""


class Delivered(NamedTuple):
    """A delivery in the index."""

    place: Place
    notification_id: str
    account_id: str | None
    scenario: str
    channel: str
    status: str
    error_code: int | None
    error: str | None
    attempts: int
    provider_id: str | None
    title: str | None
    occurred: int | None


class CommandRow(NamedTuple):
    """A command's place in Kafka, and its main fields."""

    partition: int
    offset: int
    notification_id: str
    account_id: str | None
    scenario: str
    channel: str
    title: str | None
    occurred: int


class LetterRow(NamedTuple):
    """A dead letter in the index, without its bytes."""

    partition: int
    offset: int
    at: int
    topic: str
    source_partition: int
    source_offset: int
    reason: str
    key: str
    """JSON."""
    size: int
    attempts: int
    handled: str | None


class Listed(NamedTuple):
    """A value of the state in a list, and the number by which the list is sorted."""

    partition: int
    key: bytes
    value: bytes
    number: int


class Queries:
    """Reads the index."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.console_datadir
        self._retention = settings.console_retention_days * DAY
        self._prefix = settings.topic_prefix
        self._mine = threading.local()

    def answer(self, question: Callable[[], T]) -> T:
        """Return what a question returns, all of it from one state of the index: what belongs
        together may change between two look-ups."""
        db = self._db()
        db.execute("BEGIN")
        try:
            return question()
        finally:
            db.execute("COMMIT")

    def deliveries(
        self, wanted: Filters, *, now: int, limit: int, before: Place | None = None
    ) -> list[Delivered]:
        """Return the newest wanted deliveries, older than `before` where that is given."""
        db = self._db()
        floor = max(now - self._retention, wanted.since or 0)
        top = before or _AFTER_ALL
        if wanted.until is not None:
            top = min(top, (wanted.until, -1, -1))
        found: list[tuple[Any, ...]] = []
        for plan in self._plans(db, wanted):
            found += self._search(db, plan, floor, top, limit)
        # The same row may be found by its title and by its id.
        newest = sorted(set(found), reverse=True)[:limit]
        return self._described(db, newest)

    def deliveries_of(self, notification_id: str) -> list[Delivered]:
        """Return the deliveries of one notification, oldest first."""
        found = self.deliveries(Filters(notification=notification_id), now=0, limit=MOST_ROWS)
        return found[::-1]

    def command(self, notification_id: str) -> CommandRow | None:
        """Return the first command of a notification id; None: there is none."""
        commands = self._commands(self._db(), "id = ?", packed(notification_id), limit=1)
        return commands[0] if commands else None

    def commands_of_call(self, call_id: str) -> list[CommandRow]:
        """Return the commands that a call caused."""
        return self._commands(self._db(), "call = ?", call_id, limit=20)

    def inbox(self, notification_id: str) -> tuple[int, int] | None:
        """Return partition and offset of the first inbox message of an id."""
        db = self._db()
        for number in self._segments(db, "inbox"):
            row = db.execute(
                f"SELECT p, o FROM inbox_{number} WHERE id = ? ORDER BY p, o LIMIT 1",
                (packed(notification_id),),
            ).fetchone()
            if row:
                return int(row[0]), int(row[1])
        return None

    def counts(self, since: int) -> list[tuple[str, str, str, int]]:
        """Return (scenario, channel, status, number of deliveries) since an instant."""
        rows = self._db().execute(
            "SELECT scenario, channel, status, sum(row_count) FROM minutes "
            "JOIN kinds ON kinds.id = kind WHERE minute >= ? GROUP BY 1, 2, 3 "
            "HAVING sum(row_count) > 0 ORDER BY 1, 2, 3",
            (since // MINUTE,),
        )
        return rows.fetchall()

    def rates(self, since: int, step: int) -> dict[int, dict[str, int]]:
        """Return, since an instant, begin of a step → status → number of deliveries. `step`: its
        length in microseconds; steps without any are left out."""
        rows = self._db().execute(
            "SELECT minute / ?1 * ?1, status, sum(row_count) FROM minutes "
            "JOIN kinds ON kinds.id = kind WHERE minute >= ?2 GROUP BY 1, 2",
            (step // MINUTE, since // MINUTE),
        )
        found: dict[int, dict[str, int]] = {}
        for minute, status, count in rows:
            found.setdefault(minute * MINUTE, {})[status] = count
        return found

    def lags(self, since: int) -> list[tuple[int, str, int, float | None]]:
        """Return samples (instant, topic, records, seconds) since an instant, oldest first."""
        return (
            self._db()
            .execute("SELECT at, topic, lag, seconds FROM lags WHERE at >= ? ORDER BY at", (since,))
            .fetchall()
        )

    def letters(
        self,
        *,
        limit: int,
        before: Place | None = None,
        topic: str | None = None,
        reason: str | None = None,
        since: int | None = None,
        until: int | None = None,
        handled_too: bool = False,
    ) -> list[LetterRow]:
        """Return the newest wanted dead letters."""
        top = min(before or _AFTER_ALL, (_AFTER_ALL[0] if until is None else until, -1, -1))
        conditions = ["(at, p, o) < (?, ?, ?)", "at >= ?"]
        values: list[Any] = [*top, since or 0]
        if not handled_too:
            conditions.append("handled IS NULL")
        if topic is not None:
            conditions.append("topic IN (?, ?)")
            values += [topic, f"{self._prefix}{topic}"]
        if reason is not None:
            conditions.append("reason LIKE ? ESCAPE '\\'")
            values.append(_like(reason))
        rows = self._db().execute(
            f"SELECT {_LETTER} FROM letters WHERE {' AND '.join(conditions)} "
            "ORDER BY at DESC, p DESC, o DESC LIMIT ?",
            (*values, limit),
        )
        return [LetterRow(*row) for row in rows]

    def letters_waiting(self) -> int:
        """Return the number of letters that aren't handled."""
        row = self._db().execute("SELECT count(*) FROM letters WHERE handled IS NULL").fetchone()
        return int(row[0])

    def letter_counts(self) -> list[tuple[str, str, int]]:
        """Count those of the newest letters that aren't handled: (topic, wrong field, count)."""
        rows = self._db().execute(
            "SELECT topic, CASE WHEN instr(reason, ':') THEN substr(reason, 1, instr(reason, ':') "
            "- 1) ELSE substr(reason, 1, 40) END, count(*) FROM (SELECT topic, reason FROM letters "
            "WHERE handled IS NULL ORDER BY at DESC, p DESC, o DESC LIMIT 20000) "
            "GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20"
        )
        return rows.fetchall()

    def values(self, partition: int, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Return (key, value) of keys of the changelog, where there is a value."""
        db = self._db()
        found = []
        for key in keys:
            row = db.execute(
                "SELECT value FROM state WHERE partition = ? AND key = ?", (partition, key)
            ).fetchone()
            if row:
                found.append((key, row[0]))
        return found

    def values_numbered(self, partition: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return (key, value) of the keys that are `prefix`, which ends with an id, and numbers
        behind it: an instant of eight bytes, or the number of a page.

        The first byte of an instant is 0 to 3, or 255 before 1970. Hardly an id goes on so, and
        longer ids with the same beginning, of which there may be very many, aren't read.
        """
        found: list[tuple[bytes, bytes]] = []
        for first, last in ((b"\0", b"\x04"), (b"\xff", b"\xff" * 9)):
            rows = self._db().execute(
                "SELECT key, value FROM state WHERE partition = ? AND key >= ? AND key < ?",
                (partition, prefix + first, prefix + last),
            )
            found += (row for row in rows if belongs_to(row[0], prefix[1:]))
        return found

    def runs(self, *, limit: int, before: tuple[int, int, bytes] | None) -> list[Listed]:
        """Return the longest runs of accounts and lines."""
        top = before or (1 << 62, 0, b"")
        rows = self._db().execute(
            "SELECT partition, key, value, run FROM state WHERE run > 0 "
            "AND (run, partition, key) < (?, ?, ?) "
            "ORDER BY run DESC, partition DESC, key DESC LIMIT ?",
            (*top, limit),
        )
        return [Listed(*row) for row in rows]

    def batches(
        self, *, limit: int, after: tuple[int, int, bytes] | None, only_open: bool
    ) -> list[Listed]:
        """Return batches, oldest first: all that are remembered, or those in progress only."""
        bottom = after or (-(1 << 62), 0, b"")
        condition = "is_open = 1" if only_open else "batch IS NOT NULL"
        rows = self._db().execute(
            f"SELECT partition, key, value, batch FROM state WHERE {condition} "
            "AND (batch, partition, key) > (?, ?, ?) ORDER BY batch, partition, key LIMIT ?",
            (*bottom, limit),
        )
        return [Listed(*row) for row in rows]

    def open_batch_count(self) -> int:
        """Return the number of batches in progress."""
        row = self._db().execute("SELECT count(*) FROM state WHERE is_open = 1").fetchone()
        return int(row[0])

    def _plans(self, db: sqlite3.Connection, wanted: Filters) -> list["_Plan"]:
        """Return plans that together find all wanted deliveries."""
        kinds = _kinds(db, wanted)
        plan = _Plan(kinds)
        if wanted.account is not None:
            plan = plan.narrowed("account = ?", [wanted.account], "by_account")
        if wanted.notification is not None:
            plan = plan.narrowed("id = ?", [packed(wanted.notification)], "by_id")
        if wanted.q is None:
            return [plan]
        by_id = [
            plan.narrowed("id >= ? AND id < ?", [first, last], "by_id")
            for first, last in _id_ranges(wanted.q)
        ]
        return [plan._replace(kinds=_kinds(db, wanted, q=wanted.q)), *by_id]

    def _search(
        self,
        db: sqlite3.Connection,
        plan: "_Plan",
        floor: int,
        top: Place,
        limit: int,
    ) -> list[tuple[Any, ...]]:
        if plan.kinds is not None and not plan.kinds:
            return []
        found: list[tuple[Any, ...]] = []
        rows = db.execute(
            "SELECT id, first_at, last_at FROM segments WHERE holds = 'deliveries' "
            "AND last_at >= ? AND first_at <= ? ORDER BY last_at DESC",
            (floor, top[0]),
        ).fetchall()
        for number, _, last_at in rows:
            if len(found) >= limit and found[limit - 1][0] > last_at:
                break
            here = plan.kinds
            if plan.kinds is not None:
                held = db.execute(
                    "SELECT kind FROM segment_kinds WHERE segment = ? AND row_count > 0", (number,)
                )
                here = plan.kinds & {row[0] for row in held}
                if not here:
                    continue
            found += _search_segment(db, number, plan._replace(kinds=here), floor, top, limit)
            found.sort(reverse=True)
            del found[limit:]
        return found

    def _described(
        self, db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]
    ) -> list[Delivered]:
        segments = self._segments(db, "commands")
        kinds: dict[int, tuple[Any, ...]] = {}
        described = []
        for at, p, o, stored, account, kind, attempts, provider in rows:
            if kind not in kinds:
                kinds[kind] = db.execute(
                    "SELECT scenario, channel, status, error_code, error FROM kinds WHERE id = ?",
                    (kind,),
                ).fetchone()
            title = occurred = None
            for number in segments:
                row = db.execute(
                    f"SELECT title, occurred FROM commands_{number} JOIN kinds ON kinds.id = kind "
                    f"WHERE commands_{number}.id = ?",
                    (stored,),
                ).fetchone()
                if row:
                    title, occurred = row
                    break
            scenario, channel, status, code, error = kinds[kind]
            described.append(
                Delivered(
                    (at, p, o), unpacked(stored), account, scenario, channel, status, code, error,
                    attempts, provider, title, occurred,
                )
            )  # fmt: skip
        return described

    def _commands(
        self, db: sqlite3.Connection, condition: str, value: Any, *, limit: int
    ) -> list[CommandRow]:
        found: list[CommandRow] = []
        for number in self._segments(db, "commands"):
            table = f"commands_{number}"
            for row in db.execute(
                f"SELECT p, o, {table}.id, account, scenario, channel, title, occurred "
                f"FROM {table} JOIN kinds ON kinds.id = kind WHERE {table}.{condition} "
                "ORDER BY p, o LIMIT ?",
                (value, limit),
            ):
                p, o, stored, *rest = row
                found.append(CommandRow(p, o, unpacked(stored), *rest))
            if len(found) >= limit:
                break
        return found[:limit]

    def _segments(self, db: sqlite3.Connection, holds: str) -> list[int]:
        rows = db.execute("SELECT id FROM segments WHERE holds = ? ORDER BY id DESC", (holds,))
        return [row[0] for row in rows]

    def _db(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        if connection is not None and connection.in_transaction:
            return connection
        # An index that was built anew is another file: the old one is gone, but readable, and is
        # read until the new one has its tables.
        deadline = time.monotonic() + MADE_SECONDS
        while True:
            file = schema.file_id(self._directory)
            if connection is not None and file in {None, self._mine.file}:
                return connection
            made = schema.open_reader(self._directory)
            if made is not None:
                if connection is not None:
                    connection.close()
                self._mine.connection, self._mine.file = made, file
                return made
            if connection is not None:
                return connection
            if time.monotonic() > deadline:
                raise sqlite3.OperationalError(f"there is no index in {self._directory}")
            time.sleep(0.02)


_COLUMNS = "at, p, o, id, account, kind, attempts, provider"
_LETTER = "p, o, at, topic, partition, source_offset, reason, key, size, attempts, handled"


class _Plan(NamedTuple):
    """One way to look for deliveries in a segment."""

    kinds: set[int] | None
    """None: any."""
    conditions: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    by: str | None = None
    """The index to use. Without it SQLite would rather read all rows in order than sort a few."""

    def narrowed(self, condition: str, values: list[Any], by: str) -> "_Plan":
        return _Plan(self.kinds, (*self.conditions, condition), (*self.values, *values), by)


def _search_segment(
    db: sqlite3.Connection, number: int, plan: _Plan, floor: int, top: Place, limit: int
) -> list[tuple[Any, ...]]:
    """Return the rows that a plan finds in a segment, newest first. Few kinds are looked up one by
    one in their index; many kinds are common, so reading in order finds them soon."""
    table = f"deliveries_{number}"
    within = "at >= ? AND (at, p, o) < (?, ?, ?)"
    order = f"ORDER BY at DESC, p DESC, o DESC LIMIT {limit}"
    bounds = [floor, *top]
    kinds = plan.kinds
    if kinds is not None and not plan.conditions and len(kinds) <= _FEW_KINDS:
        by_kind = f"{table} INDEXED BY {table}_by_kind"
        places = " UNION ALL ".join(
            f"SELECT * FROM (SELECT at, p, o FROM {by_kind} WHERE kind = {kind} AND {within} "
            f"{order})"
            for kind in kinds
        )
        return db.execute(
            f"SELECT {_COLUMNS} FROM {table} WHERE (at, p, o) IN "
            f"(SELECT * FROM ({places}) {order}) {order}",
            bounds * len(kinds),
        ).fetchall()
    conditions = [*plan.conditions, within]
    if kinds is not None:
        conditions.append(f"kind IN ({', '.join(map(str, kinds))})")
    by = f"INDEXED BY {table}_{plan.by}" if plan.by else ""
    return db.execute(
        f"SELECT {_COLUMNS} FROM {table} {by} WHERE {' AND '.join(conditions)} {order}",
        [*plan.values, *bounds],
    ).fetchall()


def _kinds(db: sqlite3.Connection, wanted: Filters, q: str | None = None) -> set[int] | None:
    """Return the numbers of the wanted kinds; None: all are wanted."""
    conditions, values = [], []
    for name in ("scenario", "channel", "status"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"{name} = ?")
            values.append(value)
    if q is not None:
        conditions.append("(title LIKE ? ESCAPE '\\' OR error LIKE ? ESCAPE '\\')")
        values += [_like(q), _like(q)]
    if not conditions:
        return None
    rows = db.execute(
        f"SELECT id FROM kinds WHERE status <> '' AND {' AND '.join(conditions)}", values
    )
    return {row[0] for row in rows}


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _id_ranges(q: str) -> list[tuple[str | bytes, str | bytes]]:
    """Return the ranges of stored ids that begin with a text, one for each way of storing ids."""
    if not _ID_PREFIX.fullmatch(q):
        return []
    ranges: list[tuple[str | bytes, str | bytes]] = [(q, f"{q}\U0010ffff")]
    if re.fullmatch(r"[0-9a-f]+", q):
        last = q + "f" * 64
        ranges.append((bytes.fromhex(q + "0" * (len(q) % 2)), bytes.fromhex(last[:64]) + b"\xff"))
    return ranges


def cursor_of(place: Place) -> str:
    """Return the cursor of a place, for a URL."""
    return ".".join(map(str, place))


def parse_cursor(text: str) -> Place:
    """Return the place of a cursor. Raises BadCursorError."""
    match = re.fullmatch(r"(-?\d{1,18})\.(\d{1,9})\.(\d{1,18})", text, re.ASCII)
    if match is None:
        raise BadCursorError("is no cursor: take `next` of the page before")
    return int(match[1]), int(match[2]), int(match[3])


def listed_cursor(one: Listed) -> str:
    """Return the cursor of a run or a batch, for a URL."""
    return f"{one.number}.{one.partition}.{one.key.hex()}"


def parse_listed(text: str) -> tuple[int, int, bytes]:
    """Return the place of a cursor of a run or a batch. Raises BadCursorError."""
    match = re.fullmatch(r"(-?\d{1,18})\.(\d{1,9})\.((?:[0-9a-f]{2}){1,1024})", text, re.ASCII)
    if match is None:
        raise BadCursorError("is no cursor: take `next` of the page before")
    return int(match[1]), int(match[2]), bytes.fromhex(match[3])

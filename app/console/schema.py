"""The index's tables in one SQLite file, which is made anew where another version wrote it.

Deliveries, commands and inbox messages are in *segments*: tables of half a million rows each. So an
index by a random key fits in the cache, and old rows are deleted by dropping a table. Kafka isn't
known here.
"""

import logging
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)

VERSION = 2
"""The version of the tables below. A file with any other version is built again."""

FILE = "console.db"
SEGMENT_ROWS = 500_000

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE offsets (topic TEXT, partition INT, next INT, PRIMARY KEY (topic, partition))
    WITHOUT ROWID;
-- What deliveries have in common; one row for each combination that was seen. A command without
-- a delivery has the status ''.
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY, scenario TEXT, channel TEXT, status TEXT, error_code INT, error TEXT,
    title TEXT);
CREATE INDEX kinds_by_title ON kinds (title, scenario, channel, status);
CREATE TABLE segments (
    id INTEGER PRIMARY KEY, holds TEXT, row_count INT, first_at INT, last_at INT);
-- How many deliveries of a kind a segment holds.
CREATE TABLE segment_kinds (segment INT, kind INT, row_count INT, PRIMARY KEY (segment, kind))
    WITHOUT ROWID;
-- Deliveries by minute, for rates.
CREATE TABLE minutes (minute INT, kind INT, row_count INT, PRIMARY KEY (minute, kind))
    WITHOUT ROWID;
CREATE TABLE lags (at INT, topic TEXT, lag INT, seconds REAL, PRIMARY KEY (at, topic))
    WITHOUT ROWID;
CREATE TABLE letters (
    p INT, o INT, at INT, written INT, topic TEXT, partition INT, source_offset INT, reason TEXT,
    key TEXT, size INT, attempts INT, handled TEXT, PRIMARY KEY (p, o)) WITHOUT ROWID;
-- What was done with letters; a mark may be read before its letter.
CREATE TABLE marks (p INT, o INT, written INT, handled TEXT, why TEXT, PRIMARY KEY (p, o))
    WITHOUT ROWID;
CREATE INDEX letters_by_time ON letters (at, p, o);
CREATE INDEX letters_waiting ON letters (at, p, o) WHERE handled IS NULL;
-- The changelog as it is, and what lists need of it: a run's count, a batch's name and whether
-- calls of it are missing.
CREATE TABLE state (
    partition INT, key BLOB, value BLOB, run INT, batch INT, is_open INT,
    PRIMARY KEY (partition, key)) WITHOUT ROWID;
CREATE INDEX state_runs ON state (run, partition, key) WHERE run > 0;
CREATE INDEX state_batches ON state (batch, partition, key) WHERE batch IS NOT NULL;
CREATE INDEX state_open ON state (batch, partition, key) WHERE is_open = 1;
"""

_SEGMENTS = {
    "deliveries": """
        CREATE TABLE deliveries_{n} (
            at INT, p INT, o INT, id, account TEXT, kind INT, attempts INT, provider TEXT,
            PRIMARY KEY (at, p, o)) WITHOUT ROWID;
        CREATE INDEX deliveries_{n}_by_id ON deliveries_{n} (id);
        CREATE INDEX deliveries_{n}_by_account ON deliveries_{n} (account, at, p, o);
        CREATE INDEX deliveries_{n}_by_kind ON deliveries_{n} (kind, at, p, o);""",
    "commands": """
        CREATE TABLE commands_{n} (
            p INT, o INT, id, account TEXT, kind INT, occurred INT, call TEXT,
            PRIMARY KEY (p, o)) WITHOUT ROWID;
        CREATE INDEX commands_{n}_by_id ON commands_{n} (id);
        CREATE INDEX commands_{n}_by_call ON commands_{n} (call) WHERE call IS NOT NULL;""",
    "inbox": """
        CREATE TABLE inbox_{n} (p INT, o INT, id, PRIMARY KEY (p, o)) WITHOUT ROWID;
        CREATE INDEX inbox_{n}_by_id ON inbox_{n} (id);""",
}


def open_writer(directory: Path, identity: str) -> sqlite3.Connection:
    """Open the index to write; make it anew where it isn't this version's of this installation.

    `identity`: identifies what is indexed. Raises OSError or sqlite3.OperationalError where the
    file can't be written.
    """
    path = directory / FILE
    is_new = not path.exists()
    try:
        connection = _connect(path)
        if _is_ours(connection, identity):
            return connection
        connection.close()
        if not is_new:
            log.warning("the index in %s is another version's or installation's: built anew", path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        log.warning("the index in %s is damaged (%s): it is built anew", path, error)
    remove(directory)
    connection = _connect(path)
    with connection:
        connection.executescript(_TABLES)
        connection.execute("INSERT INTO meta VALUES ('identity', ?)", (identity,))
        # Last, so that a file which is only half made is made again.
        connection.execute(f"PRAGMA user_version = {VERSION}")
    return connection


def open_reader(directory: Path) -> sqlite3.Connection | None:
    """Open the index for reading; None: there is none now, or it is only half made. One thread at a
    time may use it."""
    place = f"{(directory / FILE).absolute().as_uri()}?mode=rw"  # never creates it
    try:
        connection = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError:
        return None
    connection.execute("PRAGMA busy_timeout = 5000")
    try:
        is_made = connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
    except sqlite3.DatabaseError:
        is_made = False  # damaged: the indexer builds it anew
    if not is_made:
        connection.close()
        return None
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


def file_id(directory: Path) -> int | None:
    """Return what tells the index's file from one before it; None: there is none now."""
    try:
        return (directory / FILE).stat().st_ino
    except FileNotFoundError:
        return None


def remove(directory: Path) -> None:
    """Delete the index. It is built again at the next start."""
    for suffix in ("", "-wal", "-shm"):
        (directory / f"{FILE}{suffix}").unlink(missing_ok=True)


def create_segment(connection: sqlite3.Connection, number: int, holds: str) -> None:
    """Create the tables of a segment, in the open transaction."""
    for statement in _SEGMENTS[holds].format(n=number).split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("INSERT INTO segments VALUES (?, ?, 0, NULL, NULL)", (number, holds))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # What a power failure loses is read from Kafka again, since the offsets are lost with it.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA wal_autocheckpoint = 8000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def _is_ours(connection: sqlite3.Connection, identity: str) -> bool:
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        return False
    row = connection.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
    return bool(row and row[0] == identity)

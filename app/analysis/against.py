"""A replay compared with the commands really sent: in both, only in the replay, only sent.

Both sides are stored in a database file, so that memory doesn't grow. Two commands are the same if
scenario, account, channel and cause are the same; for low balances, whose cause is two amounts, the
local day too.
"""

import json
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from agents.telling import CAUSE
from app.analysis.commands import CommandFilter, ToldCommand, decode_command, instant_of_command
from app.analysis.refold import ALL
from streams.engine.types import Header
from streams.records import SCENARIOS

Difference = Literal["both", "only_replay", "only_sent"]
_OUR_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FIELDS = {
    "interested_customer": {"call_id", "phone", "result"},
    "batch_completed": {"submitted_at", "batch_size"},
    "unreachable_run": {"run_length", "first_call_id", "call_id"},
    "line_error_run": {"run_length", "first_call_id", "call_id", "line_id"},
    "announcement": {"announcement_id"},
    "low_balance": {"balance", "threshold"},
    "recharge_received": {"recharge_id", "amount", "balance"},
    "account_expiring": {"expires_at"},
}
_BECAUSE_LINE = "of lines whose calls lie in several partitions"
_BECAUSE_ACCOUNT = "of accounts that changed meanwhile"
_BECAUSE_ELSE = "of other grounds: other settings, or records that are gone"


class Against:
    """The two sides of a comparison, and their differences."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dialwatch-")
        self._database = sqlite3.connect(Path(self._directory.name) / "told.db")
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE told (variant INT, cause TEXT, at INT, id TEXT, command BLOB);"
            "CREATE TABLE sent (cause TEXT, at INT, id TEXT PRIMARY KEY, command BLOB);"
        )

    def close(self) -> None:
        """Delete the database."""
        self._database.close()
        self._directory.cleanup()

    def add_told(self, variant: int, said: ToldCommand, command: bytes) -> None:
        """Add a command of the replay."""
        self._database.execute(
            "INSERT INTO told VALUES (?, ?, ?, ?, ?)",
            (variant, _cause(said), instant_of_command(said), said.notification_id, command),
        )

    def add_sent(self, record: Any, wanted: CommandFilter) -> None:
        """Add a record of `notifications`, if it is wanted and one of dialwatch's own commands."""
        try:
            said = decode_command(record.value or b"")
            at = instant_of_command(said)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return
        if is_ours(said, record.headers) and wanted.has(said, at):
            self._database.execute(
                "INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?)",
                (_cause(said), at, said.notification_id, bytes(record.value)),
            )

    def index(self) -> None:
        """Index both sides. Call it when both are complete."""
        self._database.executescript(
            "CREATE INDEX told_cause ON told (cause); CREATE INDEX sent_cause ON sent (cause);"
        )

    def differences(self, variant: int) -> Iterator[tuple[Difference, bytes]]:
        """Yield every command, of a variant or sent, with its kind of difference, by time."""
        yield from self._database.execute(
            f"""
            WITH t AS (SELECT *, row_number() OVER (PARTITION BY cause ORDER BY at, id) AS nth
                       FROM told WHERE variant IN ({ALL}, :variant)),
                 s AS (SELECT *, row_number() OVER (PARTITION BY cause ORDER BY at, id) AS nth
                       FROM sent)
            SELECT difference, command FROM (
                SELECT CASE WHEN s.id IS NULL THEN 'only_replay' ELSE 'both' END AS difference,
                       t.command AS command, t.at AS at, t.id AS id
                FROM t LEFT JOIN s ON t.cause = s.cause AND t.nth = s.nth
                UNION ALL
                SELECT 'only_sent', s.command, s.at, s.id
                FROM s LEFT JOIN t ON t.cause = s.cause AND t.nth = s.nth WHERE t.id IS NULL
            ) ORDER BY at, id, difference
            """,  # noqa: S608 (a constant)
            {"variant": variant},
        )


def counted(differences: Iterator[tuple[Difference, bytes]]) -> Counter[Difference]:
    """Return the number of differences of each kind."""
    return Counter(difference for difference, _ in differences)


def grounds(
    differences: Iterator[tuple[Difference, bytes]],
    changed: Mapping[bytes, int],
    begun: int,
    line_places: Mapping[bytes, set[int]],
) -> Counter[str]:
    """Return how many commands differ for each reason.

    `changed`: the timestamp (ms) of each account's record; `begun`: that of the first record of the
    other topics; `line_places`: the partitions of each line's calls.
    """
    found: Counter[str] = Counter()
    for difference, command in differences:
        if difference == "both":
            continue
        said = decode_command(command)
        line = str(said.cause.get("line_id", "")).encode()
        at = changed.get((said.account_id or "").encode())
        if said.scenario == "line_error_run" and len(line_places.get(line, ())) > 1:
            found[_BECAUSE_LINE] += 1
        elif at is not None and at > begun:
            found[_BECAUSE_ACCOUNT] += 1
        else:
            found[_BECAUSE_ELSE] += 1
    return found


def is_ours(said: ToldCommand, headers: Sequence[Header]) -> bool:
    """Did dialwatch's rules emit this command? Not another system, and not `direct`.

    Our commands name their cause in a header; older ones, from before that header, are recognized
    by their fields.
    """
    if said.scenario not in SCENARIOS:
        return False
    if any(name == CAUSE for name, _ in headers):
        return True
    return bool(_OUR_ID.fullmatch(said.notification_id)) and (
        set(said.cause) == _FIELDS[said.scenario]
    )


def _cause(said: ToldCommand) -> str:
    day = said.occurred_at[:10] if said.scenario == "low_balance" else ""
    cause = json.dumps(said.cause, sort_keys=True, ensure_ascii=False)
    return "\x1f".join((said.scenario, said.account_id or "", said.channel, day, cause))

"""The index beside a plain list of the same records: what is found, in which order, in pages."""

import json
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.console import queries, schema
from app.console.index import Index, PolledRecords, written_at
from app.console.queries import BadCursorError, Filters, Queries, cursor_of, parse_cursor
from app.settings import Settings, load_settings
from streams.decoding import decode_notification
from streams.engine.types import Header
from streams.times import DAY, SECOND, format_instant, parse_instant
from tables.batches import Batch, batch_key
from tables.lines import LineRun
from tables.runs import Run
from tables.state_tables import BATCHES, LINES, TALLIES
from tables.tallies import Tally
from tests.installation import PATIENCE_SECONDS

NOW = parse_instant("2026-11-25T12:00:00+08:00")


class Record(NamedTuple):
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = NOW // 1000
    headers: tuple[Header, ...] = ()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(console_datadir=tmp_path)


def delivery(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "notification_id": f"{number:032x}",
        "channel": "inbox",
        "account_id": "acme",
        "scenario": "low_balance",
        "status": "sent",
        "attempts": 1,
        "at": format_instant(NOW + number * SECOND, load_settings().zone),
    } | fields


def command(number: int, title: str = "余额不足", **fields: Any) -> dict[str, Any]:
    return {
        "notification_id": f"{number:032x}",
        "scenario": "low_balance",
        "channel": "inbox",
        "account_id": "acme",
        "occurred_at": "2026-11-25T11:00:00+08:00",
        "title": title,
        "cause": {},
    } | fields


def chunk(holds: str, values: list[Any], first: int = 0, partition: int = 0) -> PolledRecords:
    return PolledRecords(
        holds,
        holds,
        partition,
        [Record(first + place, json.dumps(one).encode()) for place, one in enumerate(values)],
    )


def as_wanted(one: dict[str, Any], wanted: Filters, titles: dict[str, str]) -> bool:
    at = parse_instant(one["at"])
    title = titles.get(one["notification_id"], "")
    return (
        all(
            getattr(wanted, name) in (None, one[field])
            for name, field in (
                ("account", "account_id"), ("notification", "notification_id"),
                ("scenario", "scenario"), ("channel", "channel"), ("status", "status"),
            )
        )
        and (wanted.since is None or at >= wanted.since)
        and (wanted.until is None or at < wanted.until)
        and (
            wanted.q is None
            or wanted.q.lower() in title.lower()
            or wanted.q.lower() in (one.get("error") or "").lower()
            or one["notification_id"].startswith(wanted.q)
        )
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_for_is_found_newest_first_in_pages(
    settings: Settings, seed: int
) -> None:
    rng = random.Random(seed)
    index = Index(settings, segment_rows=37)
    made: list[dict[str, Any]] = []
    titles: dict[str, str] = {}
    offsets = [0, 0, 0]
    for step in range(15):
        some = []
        for _ in range(rng.randrange(1, 25)):
            number = rng.randrange(400)
            some.append(
                delivery(
                    number,
                    # late ones, and several at one instant
                    at=format_instant(
                        NOW + (step * 20 + rng.randrange(-60, 5)) * SECOND, settings.zone
                    ),
                    account_id=rng.choice(["acme", "acme2", "a/b \"c'", None]),
                    scenario=rng.choice(["low_balance", "announcement"]),
                    channel=rng.choice(["inbox", "wechat", "sms"]),
                    status=rng.choice(["sent", "sent", "sent", "delivered", "skipped", "failed"]),
                    error=rng.choice([None, None, "no openid", "100%_wrong", "Timed out"]),
                )
            )
        known = {one["notification_id"] for one in some} - set(titles)
        fresh = {name: rng.choice(["余额不足", "系统升级 %", "<b>Title</b>"]) for name in known}
        titles |= fresh
        commands = chunk(
            "commands",
            [command(int(name, 16), title) for name, title in sorted(fresh.items())],
            first=step * 100,
        )
        partition = rng.randrange(3)
        deliveries = chunk("deliveries", some, offsets[partition], partition)
        offsets[partition] += len(some)
        # A command may come in the same poll as its delivery, in one before, or after it.
        polls = rng.choice(
            [[[commands, deliveries]], [[commands], [deliveries]], [[deliveries], [commands]]]
        )
        for poll in polls:
            index.write(poll, {("deliveries", partition): offsets[partition]})
        made += [
            one | {"place": (parse_instant(one["at"]), partition, record.offset)}
            for one, record in zip(some, deliveries.records, strict=True)
        ]
    queries = Queries(settings)
    for _ in range(40):
        wanted = Filters(
            account=rng.choice([None, None, "acme", "a/b \"c'", "nobody"]),
            notification=rng.choice([None, None, None, f"{rng.randrange(400):032x}"]),
            scenario=rng.choice([None, None, "low_balance", "announcement"]),
            channel=rng.choice([None, None, "sms"]),
            status=rng.choice([None, None, "failed", "sent"]),
            since=rng.choice([None, NOW + rng.randrange(500) * SECOND]),
            until=rng.choice([None, NOW + rng.randrange(500) * SECOND]),
            q=rng.choice(
                [
                    None,
                    None,
                    "系统",
                    "openid",
                    "0%_",
                    "%",
                    "timed",
                    f"{rng.randrange(9):032x}",
                    "0000000000",
                ]
            ),
        )
        right = sorted(
            (one["place"] for one in made if as_wanted(one, wanted, titles)), reverse=True
        )
        found, before = [], None
        limit = rng.choice([1, 7, 1000])
        while True:
            page = queries.deliveries(wanted, now=NOW + DAY, limit=limit, before=before)
            found += page
            if len(page) < limit:
                break
            before = parse_cursor(cursor_of(page[-1].place))
        assert [one.place for one in found] == right, wanted
        assert all(one.title == titles[one.notification_id] for one in found)
    counted = sum(count for *_, count in queries.counts(NOW - DAY))
    assert counted == len(made)


def test_what_is_unreadable_costs_itself_alone_and_is_counted(settings: Settings) -> None:
    index = Index(settings)
    deep = json.dumps(delivery(1) | command(1) | {"message_id": "m", "handled": "", "letter_at": 1})
    bad: list[Any] = [
        b"{", None, b"[]", b"\xff", b'{"notification_id": 7}', b"1" * 70_000,
        deep.replace("{", '{"x":' + "[" * 50_000 + "]" * 50_000 + ",", 1).encode(),
    ]  # fmt: skip
    records = [Record(place, value) for place, value in enumerate(bad)]
    good = Record(99, json.dumps(delivery(1, at="2026-11-25T04:00:00Z")).encode())
    large = Record(98, json.dumps(delivery(2, error_code=1 << 63)).encode())
    for holds in ("commands", "inbox", "letters", "marks"):
        index.write([PolledRecords(holds, holds, 0, records)], {(holds, 0): 6})
    index.write(
        [PolledRecords("state", "state", 0, [Record(0, b"\xc1", b"cacme")])], {("state", 0): 1}
    )
    index.write(
        [PolledRecords("deliveries", "deliveries", 0, [*records, large, good])],
        {("deliveries", 0): 100},
    )
    queries = Queries(settings)
    assert [one.notification_id for one in queries.deliveries(Filters(), now=NOW, limit=9)] == [
        f"{1:032x}"
    ]
    assert len(queries.letters(limit=10)) == len(bad)  # shown, whatever they hold
    assert index.unreadable > len(bad)
    assert index.offsets()["deliveries", 0] == 100


@pytest.mark.parametrize(
    ("more", "call"),
    [
        ('"cause":{"call_id":"c/1"}', "c/1"),
        ('"cause":{"call_id":5}', None),
        ('"cause":{"call_id":["c/1",null,1.5]}', None),
        ('"cause":{"call_id":null}', None),
        ('"cause":{"other":1}', None),
        ('"more":1e999,"cause":{}', None),
        ('"more":[12345678901234567890123],"cause":{}', None),
        # Half of a surrogate pair, where the worker ignores it.
        ('"more":"\\ud83d","cause":{"call_id":"c/1"}', "c/1"),
        ('"more":"\\ud83d","cause":{"call_id":5}', None),
        ('"cause":{"deep":' + "[" * 500 + "]" * 500 + "}", None),
        # With its timestamp in nanoseconds.
        ('"timestamp":' + str(NOW * 1000) + ',"cause":{"call_id":"c/1"}', "c/1"),
    ],
)
def test_whatever_command_the_worker_takes_is_indexed(
    settings: Settings, more: str, call: str | None
) -> None:
    raw = json.dumps(command(1, content="c") | {"cause": None}).replace('"cause": null', more)
    record = Record(7, raw.encode(), b"acme")
    if "timestamp" in more:
        record = record._replace(timestamp=NOW * 1000)
    assert decode_notification(record.key, record.value).title == "余额不足"
    index, queries = Index(settings), Queries(settings)
    index.write([PolledRecords("commands", "commands", 0, [record])], {})
    assert format_instant(written_at(record), settings.zone)  # as the timeline shows it
    index.write([chunk("deliveries", [delivery(1)])], {})
    assert index.unreadable == 0
    found = queries.command(f"{1:032x}")
    assert found is not None
    assert found.offset == 7
    assert len(queries.commands_of_call("c/1")) == (call == "c/1")
    (told,) = queries.deliveries(Filters(), now=NOW, limit=9)
    assert (told.title, told.occurred) == ("余额不足", found.occurred)


def test_offsets_and_rows_are_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(settings)
    index.write([chunk("deliveries", [delivery(1)])], {("deliveries", 0): 1})

    def fail(chunks: list[PolledRecords]) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(index, "_add_letters", fail)
    with pytest.raises(sqlite3.OperationalError):
        index.write(
            [chunk("deliveries", [delivery(2, status="failed")], 1), chunk("letters", [1])],
            {("deliveries", 0): 2},
        )
    queries = Queries(settings)
    assert index.offsets() == {("deliveries", 0): 1}
    assert len(queries.deliveries(Filters(), now=NOW, limit=9)) == 1
    monkeypatch.undo()
    index.write([chunk("deliveries", [delivery(2, status="failed")], 1)], {("deliveries", 0): 2})
    found = queries.deliveries(Filters(status="failed"), now=NOW, limit=9)
    assert [one.place[2] for one in found] == [1]


def test_a_state_that_was_not_followed_for_long_is_read_again(settings: Settings) -> None:
    index, log = Index(settings), settings.topics.changelog
    queries = Queries(settings)

    def read(offset: int, key: bytes) -> None:
        state = PolledRecords("state", log, 0, [Record(offset, b"\xc0", key)])
        lists = chunk("deliveries", [delivery(offset)], offset)
        positions = {(log, 0): offset + 1, ("deliveries", 0): offset + 1}
        index.write([state, lists], positions)

    read(0, b"cacme")
    index.note_up_to_date(NOW)
    index.forget_old_state(NOW + 1_700 * SECOND)  # a restart
    assert index.offsets() == {(log, 0): 1, ("deliveries", 0): 1}
    assert len(queries.values(0, [b"cacme"])) == 1
    # Compaction may have taken acme's deletion, which would never be heard of.
    index.forget_old_state(NOW + 1_900 * SECOND)
    assert index.offsets() == {("deliveries", 0): 1}
    assert not queries.values(0, [b"cacme"])
    read(0, b"cacme")
    index.forget_old_state(NOW + 1_900 * SECOND)  # it wasn't through
    assert index.offsets() == {("deliveries", 0): 1}


def test_after_a_restart_it_goes_on_and_a_file_of_another_kind_is_made_anew(
    settings: Settings, tmp_path: Path
) -> None:
    index = Index(settings, segment_rows=2)
    for number in range(5):
        index.write(
            [chunk("deliveries", [delivery(number)], number)], {("deliveries", 0): number + 1}
        )
    index.close()
    again = Index(settings, segment_rows=2)
    assert again.offsets() == {("deliveries", 0): 5}
    again.write([chunk("deliveries", [delivery(5)], 5)], {("deliveries", 0): 6})
    assert len(Queries(settings).deliveries(Filters(), now=NOW, limit=9)) == 6
    again.close()
    # Another group's, or a version's that this one doesn't know, older or newer.
    assert Index(settings.model_copy(update={"group": "other"})).offsets() == {}
    for version in (schema.VERSION - 1, schema.VERSION + 1):
        Index(settings).write([], {("deliveries", 0): 9})
        with sqlite3.connect(tmp_path / schema.FILE) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        assert Index(settings).offsets() == {}
    (tmp_path / schema.FILE).write_bytes(b"no database at all" * 1000)
    assert Index(settings).offsets() == {}


def test_what_is_older_than_the_retention_goes(settings: Settings) -> None:
    settings = settings.model_copy(update={"console_retention_days": 2})
    index = Index(settings, segment_rows=3)
    old = [delivery(number, at=format_instant(NOW - 5 * DAY, settings.zone)) for number in range(4)]
    new = [delivery(number) for number in range(10, 14)]
    for place, one in enumerate([*old, *new]):
        index.write([chunk("deliveries", [one], place)], {("deliveries", 0): place + 1})
    queries = Queries(settings)
    # Not shown at once, and not kept for long.
    assert len(queries.deliveries(Filters(), now=NOW + 60 * SECOND, limit=99)) == 4
    index.forget(NOW + 60 * SECOND)
    with sqlite3.connect(settings.console_datadir / schema.FILE) as connection:
        left = [
            row[0]
            for (number,) in connection.execute("SELECT id FROM segments")
            for row in connection.execute(f"SELECT count(*) FROM deliveries_{number}")
        ]
        counted = connection.execute("SELECT sum(row_count) FROM segment_kinds").fetchone()[0]
    connection.close()
    assert (sum(left), counted) == (4, 4)
    index.forget(NOW + 9 * DAY)
    index.write([chunk("deliveries", [delivery(99)], 99)], {("deliveries", 0): 100})
    assert len(queries.deliveries(Filters(), now=NOW, limit=99)) == 1


def test_runs_and_batches_are_listed_from_the_changelog_s_last_word(settings: Settings) -> None:
    index = Index(settings)

    def state(key: bytes, value: bytes | None) -> PolledRecords:
        return PolledRecords("state", "state", 1, [Record(0, value, key)])

    batch = Batch(10, seen=4)
    tally = Tally(run=Run(7, "first", NOW), submitted=NOW, batch=batch)
    index.write([state(b"cacme", TALLIES.encode(tally))], {})
    index.write([state(b"b" + batch_key(b"acme", NOW - DAY), BATCHES.encode(batch))], {})
    index.write([state(b"lline", LINES.encode(LineRun(Run(9, "x", NOW))))], {})
    index.write([state(b"uengine", b"\xc1")], {})
    queries = Queries(settings)
    assert [(one.key, one.number) for one in queries.runs(limit=9, before=None)] == [
        (b"lline", 9),
        (b"cacme", 7),
    ]
    numbers = [one.number for one in queries.batches(limit=9, after=None, only_open=True)]
    assert numbers == [NOW - DAY, NOW]
    done = replace_batch(tally)
    index.write([state(b"cacme", TALLIES.encode(done))], {})
    index.write([state(b"lline", None)], {})
    assert queries.runs(limit=9, before=None) == []
    assert len(queries.batches(limit=9, after=None, only_open=True)) == 1
    assert len(queries.batches(limit=9, after=None, only_open=False)) == 2
    assert [key for key, _ in queries.values_numbered(1, b"bacme")] == [
        b"b" + batch_key(b"acme", NOW - DAY)
    ]
    assert queries.values_numbered(1, b"bac") == []


def test_what_one_question_looks_up_is_of_one_moment(settings: Settings) -> None:
    index, queries = Index(settings), Queries(settings)

    def write(line: LineRun, page: bytes | None) -> None:
        values = [(b"lL", LINES.encode(line)), (b"mL" + bytes(4), page)]
        records = [Record(0, value, key) for key, value in values]
        index.write([PolledRecords("state", "state", 0, records)], {})

    write(LineRun(Run(300, "x", NOW), pages=1), b"\x91\x80")

    def look_up() -> tuple[int, int]:
        ((_, value),) = queries.values(0, [b"lL"])
        write(LineRun(), None)  # the run ends
        return LINES.decode(value).pages, len(queries.values_numbered(0, b"mL"))

    assert queries.answer(look_up) == (1, 1)
    assert queries.values_numbered(0, b"mL") == []


def replace_batch(tally: Tally) -> Tally:
    return Tally(submitted=tally.submitted, batch=Batch(10, seen=10))


@pytest.mark.parametrize("text", ["", "1", "1.2", "1.2.x", "1.2.3.4", "٣.1.1", "9" * 99 + ".1.1"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursorError):
        parse_cursor(text)


def test_while_an_index_is_made_anew_the_one_before_is_read_and_who_has_none_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MADE_SECONDS", PATIENCE_SECONDS)
    index, old = Index(settings), Queries(settings)
    index.write([chunk("deliveries", [delivery(1)])], {})
    assert len(old.deliveries(Filters(), now=NOW, limit=9)) == 1
    index.close()
    schema.remove(settings.console_datadir)
    assert len(old.deliveries(Filters(), now=NOW, limit=9)) == 1
    (settings.console_datadir / schema.FILE).touch()  # without its tables so far
    assert len(old.deliveries(Filters(), now=NOW, limit=9)) == 1
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(Queries(settings).deliveries, Filters(), now=NOW, limit=9)
        assert not wait([asked], timeout=0.1).done
        index = Index(settings)
        assert asked.result() == []
    assert old.deliveries(Filters(), now=NOW, limit=9) == []
    index.close()

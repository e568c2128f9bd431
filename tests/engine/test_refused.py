"""What can't be written costs one record, never the group: on a real Kafka, with a real worker."""

import asyncio
import contextlib
import json
from datetime import timedelta, timezone
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from agents.dead_letters import dead_letter, own_headers
from agents.dispatch import origin_of
from agents.replacements import instead_of
from app.local.worker import WorkerProcess
from streams.engine.memory import MemoryRecord
from streams.engine.refused import RefusedRecord, without
from streams.engine.types import TP, Origin, Output
from streams.kafka.producer import RefusedRecordsError
from streams.topics import Topics
from tests import kafka_admin
from tests.engine.inprocess import eventually
from tests.installation import Installation, Published
from tests.samples import account, recharge

LIMIT = 4 << 20


def headers(record: Any) -> dict[str, str]:
    return {name: said.decode() for name, said in record.headers}


async def letters(installation: Installation) -> list[Any]:
    """Wait for the first dead letters, which no other topic's records tell of; return them."""
    found: list[Any] = []

    async def is_there() -> bool:
        found[:] = await installation.read("dead-letters")
        return bool(found)

    await eventually(is_there, "a dead letter")
    return found


def command(number: int, **fields: Any) -> Published:
    value = {
        "notification_id": f"n{number}",
        "scenario": "announcement",
        "account_id": "acme",
        "channel": "wechat",
        "occurred_at": "2026-11-01T10:00:00+08:00",
        "title": "t",
        "content": "c",
        "page": None,
        "cause": {},
    }
    return Published("notifications", "acme", value | fields, 0)


async def goes_on(worker: WorkerProcess) -> None:
    async def is_serving() -> bool:
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(worker.is_serving)
        return False

    await eventually(is_serving, "the worker goes on")


@pytest.mark.broker
async def test_an_invalid_record_that_unpacks_to_more_than_a_letter_takes_is_cut(
    installation: Installation,
) -> None:
    installation.worker()
    producer = AIOKafkaProducer(
        bootstrap_servers=installation.brokers, compression_type="gzip", max_request_size=8 << 20
    )
    await producer.start()
    whole = b"x" * (5 << 20)
    await producer.send_and_wait(installation.topics.calls, whole, key=b"acme", partition=0)
    await producer.stop()
    await installation.publish([account("acme"), recharge("acme", "r1")])
    await installation.wait_for("inbox-messages", lambda found: len(found) == 1)
    [letter] = await letters(installation)
    assert headers(letter)["dialwatch.truncated"] == str(len(whole))
    assert headers(letter)["dialwatch.topic"] == installation.topics.calls
    assert LIMIT - 2000 < len(letter.value) < LIMIT
    assert whole.startswith(letter.value)
    assert letter.key == b"acme"


@pytest.mark.broker
async def test_a_command_that_its_outbox_does_not_take_ends_as_failed(
    installation: Installation,
) -> None:
    outbox = installation.topics.wechat_bulk_outbox
    worker = installation.worker()
    # A worker sets it right when it starts: somebody lowered it under a running one.
    await kafka_admin.take_at_most(installation, outbox, 2000)
    await installation.publish([command(1, content="x" * 3000), command(2)])
    done = await installation.wait_for("deliveries", lambda found: len(found) == 2)
    assert {one["notification_id"]: one["status"] for one in done} == {
        "n1": "failed",
        "n2": "skipped",  # nothing is set up to send with
    }
    [letter] = await letters(installation)
    assert json.loads(letter.value)["notification_id"] == "n1"
    said = headers(letter)
    assert said["dialwatch.topic"] == installation.topics.notifications
    assert (said["dialwatch.partition"], said["dialwatch.offset"]) == ("0", "0")
    assert "doesn't take it (MessageSizeTooLargeError)" in said["dialwatch.reason"]

    await goes_on(worker)


@pytest.mark.broker
async def test_a_command_just_below_the_limit_finds_its_place_with_its_headers(
    installation: Installation,
) -> None:
    installation.worker()
    # What nobody knows is ignored. Its frame and header take 150 bytes more.
    spare = LIMIT - len(json.dumps(command(1, unknown="").value)) - 160
    long = command(1, unknown="x" * spare)
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers, max_request_size=8 << 20)
    await producer.start()
    await producer.send_and_wait(
        installation.topics.notifications,
        json.dumps(long.value).encode(),
        key=b"acme",
        partition=0,
        headers=[("traceparent", b"x" * 40)],
    )
    await producer.stop()
    [done] = await installation.wait_for("deliveries", lambda found: len(found) == 1)
    assert (done["notification_id"], done["status"]) == ("n1", "skipped")
    assert await installation.read("dead-letters") == []


@pytest.mark.broker
async def test_a_command_whose_inbox_message_is_refused_ends_as_failed_and_as_a_letter(
    installation: Installation,
) -> None:
    name = installation.topics.inbox_messages
    await installation.configure(name, {"max.message.bytes": "1000000"})
    worker = installation.worker()
    producer = AIOKafkaProducer(
        bootstrap_servers=installation.brokers, compression_type="gzip", max_request_size=8 << 20
    )
    await producer.start()
    long = command(1, channel="inbox", cause={"x": "y" * 1_000_000}, unknown=1e9)
    endless = command(2, channel="inbox", cause={"x": "y" * (5 << 20)})
    short = command(3, channel="inbox", cause={"x": 2.5})
    # Python would write three times as many characters for its numbers: whole in the inbox.
    zeros = json.dumps(command(4, channel="inbox").value)
    zeros = zeros.replace("{}", '{"x": [' + "1e9," * 200_000 + "1]}")
    sent = [json.dumps(one.value).encode() for one in (long, endless, short)] + [zeros.encode()]
    for value in sent:
        await producer.send_and_wait(
            installation.topics.notifications, value, key=b"acme", partition=0,
            headers=[("trace", b"7")],
        )  # fmt: skip
    await producer.stop()
    # Four are dispatched, each once; what is written for the two comes with them.
    done = await installation.wait_for("deliveries", lambda found: len(found) >= 4)
    assert sorted((one["notification_id"], one["status"]) for one in done) == [
        ("n1", "failed"), ("n2", "failed"), ("n3", "sent"), ("n4", "sent"),
    ]  # fmt: skip
    shown = await installation.read("inbox-messages")
    assert [json.loads(one.value)["message_id"] for one in shown] == ["n3", "n4"]
    assert len(json.loads(shown[1].value)["cause"]["x"]) == 200_001
    letters = await installation.read("dead-letters")
    assert [own_headers(letter.headers) for letter in letters] == [[("trace", b"7")]] * 2
    for offset, letter in enumerate(letters):
        said = headers(letter)
        assert said["dialwatch.topic"] == installation.topics.notifications
        assert (said["dialwatch.partition"], said["dialwatch.offset"]) == ("0", str(offset))
        assert f"{name} doesn't take it (MessageSizeTooLargeError)" in said["dialwatch.reason"]
        assert letter.key == b"acme"
    assert letters[0].value == sent[0]
    assert "dialwatch.truncated" not in headers(letters[0])
    assert headers(letters[1])["dialwatch.truncated"] == str(len(sent[1]))
    await goes_on(worker)


def too_long(**said: Any) -> RefusedRecord:
    """A command for which its outbox has not enough room, though it is short but for `unknown`."""
    value = json.dumps(command(1, unknown="x" * 3000, **said).value).encode()
    headers = [
        ("trace", b"7"),
        ("dialwatch.attempts", b"2"),
        ("dialwatch.topic", b"notifications"),
        ("dialwatch.partition", b"3"),
        ("dialwatch.offset", b"17"),
    ]
    return RefusedRecord(
        "g-wechat-outbox", 3, b"acme", value, headers, "MessageSizeTooLargeError", 2000
    )


def test_a_command_too_long_with_its_headers_goes_on_without_what_nobody_knows_and_says_so() -> (
    None
):
    instead = instead_of(Topics("", "g", 4), timezone(timedelta(hours=8)))
    long = too_long()
    [shorter] = instead(long)
    assert (shorter.topic, shorter.partition, shorter.key) == ("g-wechat-outbox", 3, b"acme")
    assert "unknown" not in json.loads(shorter.value or b"")
    assert json.loads(shorter.value or b"")["content"] == "c"
    # Given up, it is a letter of which is known that it isn't whole, and how often it was one.
    own, origin = origin_of(shorter.headers)
    assert origin == ("notifications", 3, 17)
    letter = dead_letter(
        "dead-letters",
        topic="notifications",
        partition=3,
        offset=17,
        key=shorter.key,
        value=shorter.value,
        reason="40003: no",
        at="2026-11-01T10:00:00+08:00",
        headers=own,
    )
    assert own_headers(letter.headers) == [("trace", b"7")]
    said = dict(letter.headers)
    assert said["dialwatch.truncated"] == str(len(long.value or b"")).encode()
    assert said["dialwatch.attempts"] == b"3"
    # Cut too, it keeps the length that it came with.
    refused = RefusedRecord(
        "dead-letters", 0, letter.key, letter.value, letter.headers, long.reason, 700
    )
    [cut] = instead(refused)
    assert [value for name, value in cut.headers if name == "dialwatch.truncated"] == [
        said["dialwatch.truncated"]
    ]
    assert own_headers(cut.headers) == [("trace", b"7")]


def test_what_is_written_in_a_records_place_stays_before_those_behind_it() -> None:
    here, there = ("outbox", 0), ("letters", 0)
    records: dict[Any, Any] = {here: [(b"k", b"1", []), (b"k", b"2", []), (b"k", b"3", [])]}

    def instead(refused: RefusedRecord) -> list[Output]:
        value = refused.value or b""
        return [
            Output("outbox", 0, b"k", value + b"a"), Output("letters", 0, b"k", value),
            Output("outbox", 0, b"k", value + b"b"),
        ]  # fmt: skip

    kept = without(
        records, RefusedRecordsError({here: [0, 1]}, MessageSizeTooLargeError()),
        instead=instead, longest={}, place=lambda output: (output.topic, output.partition or 0),
    )  # fmt: skip
    assert [value for _, value, _ in kept[here]] == [b"1a", b"1b", b"2a", b"2b", b"3"]
    assert {value for _, value, _ in kept[there]} == {b"1", b"2"}


def test_what_told_that_a_refused_record_was_written_is_replaced_with_it_in_its_place() -> None:
    inbox, told_at, letters = ("inbox", 0), ("told", 0), ("letters", 0)

    def of(number: int) -> tuple[Any, Origin]:
        told = Output("told", 0, b"k", f"sent {number}".encode())
        origin = Origin(TP("commands", 3), MemoryRecord(number, 0, b"k", b"whole"), told)
        return (b"k", b"message %d" % number, []), origin

    origins = [of(number) for number in range(4)]
    records: dict[Any, Any] = {
        inbox: [record for record, _ in origins],
        told_at: [(b"k", one.told.value, []) for _, one in origins],
    }

    def instead(refused: RefusedRecord) -> list[Output]:
        number = b"?" if refused.origin is None else b"%d" % refused.origin.record.offset
        return [
            Output("letters", 0, b"k", number), Output("told", 0, b"k", b"failed " + number)
        ]  # fmt: skip

    def without_these(records: Any, refused: dict[Any, list[int]]) -> Any:
        return without(
            records, RefusedRecordsError(refused, MessageSizeTooLargeError()), origins=origins,
            instead=instead, longest={}, place=lambda output: (output.topic, output.partition or 0),
        )  # fmt: skip

    def values(of_it: Any) -> list[bytes]:
        return [value for _, value, _ in of_it]

    kept = without_these(records, {inbox: [0, 2]})
    assert values(kept[inbox]) == [b"message 1", b"message 3"]
    assert values(kept[told_at]) == [b"failed 0", b"sent 1", b"failed 2", b"sent 3"]
    assert sorted(values(kept[letters])) == [b"0", b"2"]
    # Another is found only when these are gone.
    kept = without_these(kept, {inbox: [1]})
    assert values(kept[inbox]) == [b"message 1"]
    assert values(kept[told_at]) == [b"failed 0", b"sent 1", b"failed 2", b"failed 3"]
    # What told is refused itself: the message is written all the same.
    kept = without_these(records, {told_at: [1]})
    assert values(kept[inbox]) == values(records[inbox])
    assert values(kept[letters]) == [b"?"]


def test_a_command_without_what_nobody_knows_has_its_numbers_as_they_came() -> None:
    instead = instead_of(Topics("", "g", 4), timezone(timedelta(hours=8)))
    plain = json.dumps(command(1).value).replace("{}", '{"x": [' + "1e9," * 20_000 + "1]}")
    value = f'{plain[:-1]}, "unknown": "{"x" * 3000}"}}'.encode()
    [shorter] = instead(too_long()._replace(value=value, longest=len(plain) + 1_000))
    assert b"1e9,1e9," in (shorter.value or b"")
    assert b"unknown" not in (shorter.value or b"")


@pytest.mark.parametrize(
    "long",
    [
        too_long(content="c" * 3000),
        too_long()._replace(reason="KafkaInvalidRecordError"),  # not for its length
    ],
)
def test_a_command_that_is_refused_all_the_same_is_a_letter_byte_for_byte(
    long: RefusedRecord,
) -> None:
    instead = instead_of(Topics("", "g", 4), timezone(timedelta(hours=8)))
    letter, delivery = instead(long)
    assert (letter.topic, letter.value) == ("dead-letters", long.value)
    assert "dialwatch.truncated" not in dict(letter.headers)
    assert json.loads(delivery.value or b"")["status"] == "failed"


def test_a_letter_is_cut_until_it_fits_its_value_first() -> None:
    topics = Topics("", "g", 1)
    instead = instead_of(topics, timezone(timedelta(hours=8)))
    ours = [("dialwatch.topic", b"calls"), ("dialwatch.reason", b"value: no")]
    own = [("traceparent", b"1")]
    letter = RefusedRecord(
        "dead-letters", 0, b"k" * 600, b"v" * 5000, [*own, *ours], "MessageSizeTooLargeError", 1000
    )
    lengths = []
    for _ in range(40):
        outputs = instead(letter)
        if not outputs:
            break
        [cut] = outputs
        said = dict(cut.headers)
        lengths.append((len(cut.value or b""), len(cut.key or b""), len(cut.headers)))
        assert said["dialwatch.truncated"] == b"5000"
        assert cut.headers[-1][0] == "dialwatch.truncated"
        letter = letter._replace(key=cut.key, value=cut.value, headers=cut.headers)
    # 1000 - 200 for the frame - (22 + 30 + 35) of headers - 600 of the key
    assert lengths[0] == (113, 600, 4)
    assert (0, 600, 4) in lengths  # then the key
    assert (0, 0, 4) in lengths  # then what it came with
    assert lengths[-1] == (0, 0, 3)


def test_a_deletion_with_an_endless_key_is_cut_too() -> None:
    instead = instead_of(Topics("", "g", 1), timezone(timedelta(hours=8)))
    [cut] = instead(
        RefusedRecord("dead-letters", 0, b"k" * 5000, None, [], "MessageSizeTooLargeError", 1000)
    )
    assert (len(cut.key or b""), cut.value) == (800, None)
    assert cut.headers == [("dialwatch.truncated", b"5000")]


def test_headers_that_are_too_many_cost_neither_key_nor_value() -> None:
    ours = [("dialwatch.topic", b"calls"), ("dialwatch.reason", b"value: no")]
    own = [("big", b"h" * 5000)]
    instead = instead_of(Topics("", "g", 1), timezone(timedelta(hours=8)))
    [cut] = instead(
        RefusedRecord(
            "dead-letters", 0, b"acme", b"{", [*own, *ours], "MessageSizeTooLargeError", 1000
        )
    )
    assert (cut.key, cut.value) == (b"acme", b"{")
    assert cut.headers == [*ours, ("dialwatch.truncated", b"1")]

"""Lag counts what a reader still gets or waits for; a scan sees what a committed reader sees."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from app.operations.installation import Installation as Connected
from app.operations.installation import open_installation
from app.operations.lag import Behind, behind_of, group_lag, positions_of
from streams.engine.outbox import UNFINISHED, _Unfinished
from streams.engine.positions import POSITIONS, Position
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END, LogScan, Wanted, batch_at, records_of
from tests.engine.inprocess import eventually
from tests.installation import Installation, Published
from tests.samples import call

pytestmark = pytest.mark.broker


@asynccontextmanager
async def writing(
    installation: Installation, name: str | None = None, **given: Any
) -> AsyncIterator[Any]:
    """A producer; with a name a transactional one."""
    identity = {} if name is None else {"transactional_id": f"{installation.name}-{name}"}
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers, **identity, **given)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def put(producer: Any, tp: TP, *values: bytes) -> None:
    for value in values:
        await producer.send_and_wait(tp.topic, value, key=b"k", partition=tp.partition)


async def behind(connected: Connected, tp: TP, begin: int = 0) -> Behind:
    ends = await connected.logs.offsets([tp], END)
    return await behind_of(connected.logs, tp, begin, ends[tp])


async def settles(connected: Connected, tp: TP, begin: int, expected: int) -> None:
    """A transaction's end returns before its markers stand in the log."""
    found = Behind(-1, None)

    async def is_so() -> bool:
        nonlocal found
        found = await behind(connected, tp, begin)
        return found.records == expected

    await eventually(is_so, f"{expected} records are behind")
    assert (found.since is None) == (expected == 0)


async def until_all_ended(connected: Connected, tp: TP) -> None:
    """Wait until no transaction is open in a log."""

    async def is_so() -> bool:
        (piece,) = [one async for one in connected.logs.pieces(tp, 0, is_committed=False)]
        return piece.stable_end == piece.end

    await eventually(is_so, f"no transaction is open in {tp}")


async def values(connected: Connected, tp: TP, wanted: tuple[bytes, ...] = ()) -> list[bytes]:
    """What a scan finds, forwards; backwards it must be the same."""
    logs = connected.logs
    begins, ends = await logs.offsets([tp], BEGINNING), await logs.offsets([tp], END)
    where = (tp, begins[tp], ends[tp], wanted)
    found = [one.value async for some in logs.scan(*where) for one in some]
    back = [one.value async for some in logs.scan_back(*where) for one in some]
    assert back == found[::-1]
    return found


async def test_markers_and_aborted_records_are_no_lag_and_an_open_transaction_is(
    installation: Installation,
) -> None:
    tp = TP(installation.topics.calls, 0)
    async with (
        open_installation(installation.settings()) as connected,
        writing(installation, "a") as one,
        writing(installation, "b") as other,
        writing(installation) as plain,
    ):
        assert await behind(connected, tp) == Behind(0, None)
        await put(plain, tp, b"0", b"1")
        async with one.transaction():
            await put(one, tp, b"2", b"3")
        await settles(connected, tp, 0, 4)  # end is 5: a marker
        await settles(connected, tp, 4, 0)
        await settles(connected, tp, 3, 1)

        await one.begin_transaction()
        await put(one, tp, b"aborted", b"aborted")
        await one.abort_transaction()
        await settles(connected, tp, 0, 4)
        await settles(connected, tp, 5, 0)
        assert await values(connected, tp) == [b"0", b"1", b"2", b"3"]

        await one.begin_transaction()
        await put(one, tp, b"4")  # waits for its own end
        await put(plain, tp, b"5")  # waits behind it
        async with other.transaction():
            await put(other, tp, b"6")
        await other.begin_transaction()
        await put(other, tp, b"gone")
        await other.abort_transaction()
        await settles(connected, tp, 8, 3)  # 4, 5 and 6
        await settles(connected, tp, 0, 7)
        assert await values(connected, tp) == [b"0", b"1", b"2", b"3"]  # not beyond what is open
        await one.commit_transaction()
        await until_all_ended(connected, tp)
        await settles(connected, tp, 8, 3)
        assert await values(connected, tp) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_what_is_looked_for_is_found_in_any_batch_compressed_or_not(
    installation: Installation,
) -> None:
    tp = TP(installation.topics.calls, 1)
    async with open_installation(installation.settings()) as connected:
        for compression in (None, "gzip", "zstd"):
            async with writing(installation, compression_type=compression, linger_ms=50) as some:
                texts = [b"%s-%d" % (str(compression).encode(), n) * 5 for n in range(50)]
                sent = [
                    await some.send(tp.topic, text, key=b"k", partition=tp.partition)
                    for text in texts
                ]
                await asyncio.gather(*sent)
        everything = await values(connected, tp)
        assert len(everything) == 150
        alone = TP(installation.topics.calls, 3)
        async with writing(installation, "b") as one:
            for number in range(30):  # a batch and a marker for each
                async with one.transaction():
                    await put(one, alone, b"%d." % number)
            await one.begin_transaction()
            await put(one, alone, b"7. aborted")
            await one.abort_transaction()
        await settles(connected, alone, 0, 30)
        assert await values(connected, alone, (b"7.", b"20.")) == [b"7.", b"17.", b"20.", b"27."]
        assert await values(connected, alone, (re.compile(rb"\b[12]\."),)) == [b"1.", b"2."]
        assert await values(connected, alone, (b"nowhere",)) == []
        # Batches without the text are left out unless they can't be looked into.
        assert await values(connected, tp, (b"None-17",)) == everything
        assert set(await values(connected, tp, (b"nowhere",))) == set(everything[50:])


@pytest.mark.parametrize(("wanted", "most"), [((), 50_000), ((b"x",), 500_000)])
async def test_where_all_records_are_wanted_few_are_held_at_once(
    wanted: tuple[bytes, ...], most: int
) -> None:
    windows: list[tuple[int, int]] = []

    class Empty(LogScan):
        async def scan(
            self, tp: TP, begin: int, end: int, wanted: Collection[Wanted] = ()
        ) -> AsyncIterator[list[Any]]:
            windows.append((begin, end))
            return
            yield

    async for _ in Empty(AIOKafkaClient()).scan_back(TP("t", 0), 5, 3_000_000, wanted):
        raise AssertionError
    assert max(end - begin for begin, end in windows) == most
    assert [windows[0][1], *(begin for begin, _ in windows)] == [
        *(end for _, end in windows), 5
    ]  # fmt: skip


async def test_offsets_are_found_by_time(installation: Installation) -> None:
    tp = TP(installation.topics.calls, 2)
    async with (
        open_installation(installation.settings()) as connected,
        writing(installation) as plain,
    ):
        for at in (1_000, 2_000, 3_000):
            await plain.send_and_wait(tp.topic, b"x", partition=2, timestamp_ms=at)
        logs = connected.logs
        found = [(await logs.offsets([tp], at))[tp] for at in (0, 1_000, 1_001, 3_000, 3_001)]
        assert found == [0, 0, 1, 2, 3]


def test_where_the_broker_sets_the_time_it_is_the_batch_s() -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0,
        producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 10,
    )  # fmt: skip
    for offset in range(2):
        builder.append(offset, timestamp=1_000 + offset, key=None, value=b"x", headers=[])
    raw = bytearray(builder.build())
    of_producer = batch_at(bytes(raw), 0)
    struct.pack_into(">h", raw, 21, 0x08)  # attributes: LogAppendTime
    struct.pack_into(">q", raw, 35, 7_000)  # maxTimestamp, which the broker sets then
    of_broker = batch_at(bytes(raw), 0)
    assert (of_producer.timestamp, of_broker.timestamp) == (1_000, 7_000)
    assert [one.timestamp for one in records_of(bytes(raw), of_broker)] == [7_000, 7_000]


async def test_a_group_that_never_ran_is_behind_by_all_there_is(
    installation: Installation,
) -> None:
    await installation.publish(call("acme", index) for index in range(7))
    await installation.publish([Published("ticks", None, {"at": "x"}, 1)])
    async with open_installation(installation.settings()) as connected:
        lag = await group_lag(connected)
    assert lag["members"] == []
    behind_by = {(row["topic"], row["lag"]) for row in lag["partitions"] if row["lag"]}
    topics = installation.topics
    assert behind_by == {(topics.calls, 7), (topics.ticks, 1)}
    for row in lag["partitions"]:
        assert row["committed"] is None
        assert (row["seconds_behind"] > 0) == (row["lag"] > 0)
    names = {row["topic"] for row in lag["partitions"]}
    assert {topics.calls, topics.notifications, topics.wechat_outbox} < names
    assert topics.changelog not in names


async def test_what_an_outbox_finished_out_of_order_is_no_lag(installation: Installation) -> None:
    topics = installation.topics
    outbox, changelog = TP(topics.sms_outbox, 3), TP(topics.changelog, 3)
    left = UNFINISHED.encode(_Unfinished(last=5, offsets=[2, 5]))
    async with (
        open_installation(installation.settings()) as connected,
        writing(installation) as plain,
        writing(installation, "a") as one,
    ):
        await put(plain, outbox, *(b"%d" % n for n in range(8)))
        async with one.transaction():
            await one.send_and_wait(
                changelog.topic,
                left,
                key=UNFINISHED.prefix + outbox.topic.encode(),
                partition=changelog.partition,
            )
        await until_all_ended(connected, changelog)
        rows = (await group_lag(connected))["partitions"]
        (row,) = [row for row in rows if (row["topic"], row["partition"]) == outbox]
        assert row["lag"] == 4  # 2, 5, and behind these 6 and 7
        assert row["seconds_behind"] > 0


async def test_a_position_that_lies_far_back_is_not_looked_for_when_the_answer_must_be_quick(
    installation: Installation,
) -> None:
    topics = installation.topics
    calls, changelog = TP(topics.calls, 3), TP(topics.changelog, 3)
    key = POSITIONS.prefix + calls.topic.encode()
    async with (
        open_installation(installation.settings()) as connected,
        writing(installation) as plain,
    ):
        await put(plain, calls, *(b"%d" % n for n in range(5)))
        said = POSITIONS.encode(Position(3))
        await plain.send_and_wait(changelog.topic, said, key=key, partition=3)
        await put(plain, changelog, *(b"moved" for _ in range(9)))

        async def lag(**given: int) -> int:
            rows = (await group_lag(connected, **given))["partitions"]
            (row,) = [row for row in rows if (row["topic"], row["partition"]) == calls]
            return int(row["lag"])

        assert await lag() == 2
        assert [await lag(most_back=10), await lag(most_back=9)] == [2, 5]
        where = connected.admin, connected.logs, changelog.topic, [calls]
        assert await positions_of(*where) == {calls: 3}  # however far back


async def test_what_lag_searches_of_a_changelog_without_positions_is_bounded(
    installation: Installation,
) -> None:
    topics = installation.topics
    searched: list[tuple[int, int]] = []

    class Long(LogScan):
        """Of a changelog that is long."""

        async def offsets(self, tps: Iterable[TP], at: int) -> dict[TP, int]:
            tps = list(tps)
            if at == END and {tp.topic for tp in tps} == {topics.changelog}:
                return dict.fromkeys(tps, 3_000_000)
            return await super().offsets(tps, at)

        async def scan_back(
            self, tp: TP, begin: int, end: int, wanted: Collection[Wanted] = ()
        ) -> AsyncIterator[list[Any]]:
            searched.append((begin, end))
            return
            yield

    await installation.publish([call("acme", 1)])
    async with open_installation(installation.settings()) as connected:
        await group_lag(replace(connected, logs=Long(connected.admin.client)))
    assert searched == [(2_900_000, 3_000_000)]

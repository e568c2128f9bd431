"""Commands of other systems are found by their id however they are written."""

import asyncio
import re
import time
from typing import Any

import pytest
from aiokafka.errors import InvalidTimestampError

from app.operations.commands import bytes_of_ids, read_command
from app.operations.deliveries import DeliveryFilter, find_deliveries, is_known
from app.operations.installation import open_installation
from streams.records import Delivery, encode
from tests.installation import Installation, Published
from tests.operations.letters import command, ended
from tests.operations.test_lag import writing

AT = "2019-01-30T15:52:10+08:00"
REST = (
    rb'"scenario":"survey","channel":"inbox","account_id":"acme","occurred_at":"%b",'
    rb'"title":"t","content":"c","cause":{}' % AT.encode()
)
IDS = {
    # As Gson, PHP, and Python write what needn't be escaped, and what must be.
    "abc=": rb'{"notification_id":"abc\u003d",%b}',
    "a/b": rb'{"notification_id":"a\/b",%b}',
    "A": rb'{"notification_id":"\u0041",%b}',
    'a"\n': rb'{"notification_id":"a\u0022\n",%b}',
    "name": rb'{"notification\u005fid":"name",%b}',
    # In a field that nobody reads the worker takes it.
    "half": rb'{"notification_id":"half","x":"\ud83d",%b}',
    "both": rb'{"notification_id":"bo\u0074h","x":"\ud83d",%b}',
}

# No decoder goes down to its end; the worker makes it a dead letter.
DEEP = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"notification_id":"half"}'


@pytest.mark.parametrize("notification_id", IDS)
def test_whatever_it_is_written_like_it_is_looked_into(notification_id: str) -> None:
    value = IDS[notification_id] % REST
    assert read_command(b"acme", value).notification_id == notification_id
    wanted = bytes_of_ids(["first", notification_id])
    assert any(text in value if isinstance(text, bytes) else text.search(value) for text in wanted)
    other = rb'{"notification_id":"other","title":"\u4f59\n\"\\"}'
    assert not any(re.search(re.escape(w) if isinstance(w, bytes) else w, other) for w in wanted)


@pytest.mark.broker
async def test_a_few_deliveries_have_the_titles_of_commands_written_in_any_way(
    installation: Installation,
) -> None:
    values = {one: value % REST for one, value in IDS.items()}
    await installation.publish(Published("notifications", "acme", one) for one in values.values())
    await installation.publish(
        Published(topic, "acme", DEEP) for topic in ("notifications", "deliveries")
    )
    async with open_installation(installation.settings()) as connected:
        assert [await is_known(connected, one) for one in (*IDS, "abd=")] == [True] * 7 + [False]
        ends = [Delivery(one, "inbox", "acme", "survey", "sent", 1, AT) for one in IDS]
        await installation.publish(Published("deliveries", "acme", encode(end)) for end in ends)
        rows = await find_deliveries(connected, DeliveryFilter())
    assert {row["notification_id"] for row in rows} == set(IDS)
    assert {(row["title"], row["occurred_at"]) for row in rows} == {("t", AT)}


@pytest.mark.broker
@pytest.mark.parametrize("ahead_ms", [600_000, 10**15], ids=["a fast clock", "microseconds"])
async def test_a_command_behind_a_record_of_the_future_is_found(
    installation: Installation, ahead_ms: int
) -> None:
    topic = installation.topics.notifications
    await installation.configure(topic, {"message.timestamp.after.max.ms": str(10**18)})
    async with writing(installation) as other, asyncio.timeout(60):
        while True:  # until the broker heeds the setting
            try:
                now = time.time_ns() // 1_000_000
                await put(other, topic, now + ahead_ms)
                break
            except InvalidTimestampError:
                await asyncio.sleep(0.1)
    await installation.publish([Published("notifications", "acme", command("late"))])
    await ended(installation, "late", ("sent", None))
    async with open_installation(installation.settings()) as connected:
        (row,) = await find_deliveries(connected, DeliveryFilter())
    assert row["title"] == "t"


async def put(producer: Any, topic: str, timestamp_ms: int) -> None:
    await producer.send_and_wait(topic, b"{}", key=b"acme", timestamp_ms=timestamp_ms)

"""What lies where its key doesn't belong any more, or has no key, is found all the same."""

from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agents.settle import UNCERTAIN
from app.operations.deliveries import (
    DeliveryFilter,
    _commands_of,
    find_deliveries,
    is_known,
    look_for,
)
from app.operations.explain import explain_account
from app.operations.installation import Installation as Connected
from app.operations.installation import open_installation
from streams.engine.types import TP
from streams.kafka.log_scan import LogScan, Wanted
from streams.records import Delivery, encode
from streams.topics import partition_of
from tests.installation import PARTITIONS, Installation, Published
from tests.operations.letters import actions, bury, command, ended, letter, order
from tests.operations.test_lag import writing
from tests.samples import account, recharge

pytestmark = pytest.mark.broker

MORE = 7
AT = "2019-01-30T15:52:10+08:00"
assert partition_of(b"acme", PARTITIONS) != partition_of(b"acme", MORE)


async def deliveries(installation: Installation, **wanted: Any) -> list[dict[str, Any]]:
    async with open_installation(installation.settings()) as connected:
        return await find_deliveries(connected, DeliveryFilter(**wanted))


def told(*notification_ids: str) -> list[Published]:
    return [Published("notifications", "acme", command(one)) for one in notification_ids]


async def test_an_account_s_deliveries_and_their_commands_are_found_in_all_its_partitions(
    installation: Installation,
) -> None:
    old = [f"old-{number}" for number in range(3)]
    await installation.publish(told(*old, "waiting"))
    for one in old:
        await ended(installation, one, ("sent", None))
    await installation.add_partitions(MORE)
    await installation.publish(told("new"))
    await ended(installation, "new", ("sent", None))
    found = await deliveries(installation, account="acme")
    assert {(row["notification_id"], row["title"]) for row in found} == {
        (one, "t") for one in (*old, "new")
    }
    newest = await deliveries(installation, account="acme", limit=2)
    assert len(newest) == 2
    async with open_installation(installation.settings()) as connected:
        assert await explain_account(connected, "acme") is not None
        assert await is_known(connected, "waiting")


async def test_of_a_full_list_the_rest_is_looked_for_only_where_it_may_be_newer(
    installation: Installation,
) -> None:
    """The latest is in the old partition: its sender's clock was wrong, or it lay there longer."""
    await installation.publish([_delivery("latest", "2019-01-30T15:59:00+08:00")])
    await installation.add_partitions(MORE)
    await installation.publish(
        [_delivery(f"n{minute}", f"2019-01-30T15:5{minute}:00+08:00") for minute in range(3)]
    )
    found = await deliveries(installation, account="acme", limit=2)
    assert [row["notification_id"] for row in found] == ["latest", "n2"]


class Watched(LogScan):
    """Counts what is searched backwards: offsets by partition, records that were unpacked, and how
    many partitions at once."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.offsets_by: Counter[tuple[str, int]] = Counter()
        self.unpacked = self.now = self.most_at_once = 0

    async def scan_back(
        self, tp: TP, begin: int, end: int, wanted: Collection[Wanted] = ()
    ) -> AsyncIterator[list[Any]]:
        self.offsets_by[tp] += end - begin
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        async for records in super().scan_back(tp, begin, end, wanted):
            self.unpacked += len(records)
            yield records
        self.now -= 1


@asynccontextmanager
async def watched(installation: Installation) -> AsyncIterator[tuple[Connected, Watched]]:
    async with open_installation(installation.settings()) as connected:
        logs = Watched(connected.admin.client)
        yield replace(connected, logs=logs), logs


async def test_a_search_that_is_bounded_costs_at_most_twice_its_home(
    installation: Installation,
) -> None:
    one = _delivery("n", AT)
    await installation.publish(
        one._replace(partition=number) for number in range(PARTITIONS) for _ in range(20)
    )
    async with watched(installation) as (connected, logs):
        found = await look_for(connected, DeliveryFilter(account="acme"), most_back=12)
    home = partition_of(b"acme", PARTITIONS)
    assert Counter(one.place[0] for one in found) == {
        number: 12 if number == home else 12 // (PARTITIONS - 1) for number in range(PARTITIONS)
    }
    assert logs.offsets_by.total() == 24


async def test_where_there_never_were_fewer_partitions_an_account_s_home_alone_is_searched(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operations.deliveries._SEARCHED_ANYWAY", 3)
    names = {partition_of(name.encode(), PARTITIONS): name for name in map(str, range(100))}
    await installation.publish(
        _delivery(f"{name}-{number}", AT, name)
        for name in ("acme", *names.values())
        for number in range(5)
    )
    wanted = DeliveryFilter(account="acme")
    async with watched(installation) as (connected, logs):
        assert len(await look_for(connected, wanted)) == 5
    home = partition_of(b"acme", PARTITIONS)
    assert set(logs.offsets_by) == {(installation.topics.deliveries, home)}
    await installation.add_partitions(MORE)
    await installation.publish([_delivery("new", AT)])
    async with watched(installation) as (connected, _):
        assert len(await look_for(connected, wanted)) == 6


async def test_commands_that_lie_elsewhere_are_searched_for_by_bytes_a_few_partitions_at_a_time(
    installation: Installation,
) -> None:
    await installation.add_partitions(MORE)
    ids = {f"n{number}": f"account-{number}" for number in range(20)}
    others = {f"x{number}": f"account-{number % 20}" for number in range(200)}
    for records in (ids, others):
        async with writing(installation) as plain:  # a batch for each: few are unpacked with it
            for one, name in records.items():
                elsewhere = (partition_of(name.encode(), MORE) + 1) % MORE
                await plain.send_and_wait(
                    installation.topics.notifications,
                    command(one, name), key=name.encode(), partition=elsewhere,
                )  # fmt: skip
    await installation.publish(_delivery(one, AT, name) for one, name in ids.items())
    async with watched(installation) as (connected, logs):
        found = await look_for(connected, DeliveryFilter())
        logs.unpacked = logs.most_at_once = 0
        commands = await _commands_of(connected, found)
    assert set(commands) == set(ids)
    assert logs.unpacked <= 2 * len(ids)
    assert logs.most_at_once <= 4


async def test_a_command_s_end_is_known_wherever_its_delivery_lies(
    installation: Installation,
) -> None:
    ends: dict[str, tuple[Any, str | None]] = {
        "sent": ("sent", None), "failed": ("failed", "no"), "doubt": ("failed", UNCERTAIN),
        "again": ("failed", "no"),
    }  # fmt: skip
    for one, end in ends.items():
        await ended(installation, one, end)
    topic = installation.topics.notifications
    letters = await bury(installation, *(letter(topic, b"acme", command(one)) for one in ends))
    await installation.add_partitions(MORE)
    await ended(installation, "again", ("skipped", "no phone"))
    names = dict(zip(ends, letters, strict=True))

    def refused(done: dict[str, Any]) -> set[str]:
        return {one for one, name in names.items() if actions(done)[name] == "refused"}

    assert refused(await order(installation)) == {"sent", "doubt", "again"}
    assert refused(await order(installation, force=True)) == {"sent", "again"}


async def test_a_record_in_the_key_s_new_partition_is_younger(
    installation: Installation,
) -> None:
    topics, place = installation.topics, partition_of(b"acme", PARTITIONS)
    await installation.publish([account("acme"), recharge("acme", "r1")])
    names = await bury(
        installation,
        *(
            letter(topic, b"acme", b"x", partition=place, offset=1)
            for topic in (topics.accounts, topics.recharges)
        ),
    )
    await installation.add_partitions(MORE)
    assert set(actions(await order(installation)).values()) == {"redrive"}
    await installation.publish([account("acme", name="new"), recharge("acme", "r2")])
    done = await order(installation)
    assert actions(done) == dict.fromkeys(names, "refused")
    assert all("younger records" in row["why"] for row in done["letters"])
    assert set(actions(await order(installation, force=True)).values()) == {"redrive"}


async def test_a_command_without_a_key_has_its_title_and_its_end(
    installation: Installation,
) -> None:
    """Other systems may leave the key away for an openid; its deliveries go into partition 0."""
    value = {
        "notification_id": "keyless", "scenario": "survey", "account_id": None,
        "channel": "wechat", "openid": "o1", "occurred_at": AT, "title": "t", "content": "c",
    }  # fmt: skip
    other = value | {"notification_id": "keyless-2"}
    failed = [
        encode(Delivery(one, "wechat", None, "survey", "failed", 1, AT, error="no"))
        for one in ("keyless", "keyless-2")
    ]
    assert partition_of(b"", PARTITIONS) not in {0, 3}
    await installation.publish(
        [
            Published("notifications", None, value, 3),
            Published("notifications", None, other, 0),
            *(Published("deliveries", None, one, 0) for one in failed),
        ]
    )
    rows = await deliveries(installation)
    assert [(row["title"], row["occurred_at"]) for row in rows] == [("t", AT), ("t", AT)]
    (name,) = await bury(
        installation, letter(installation.topics.notifications, None, encode(value), partition=3)
    )
    assert actions(await order(installation)) == {name: "redrive"}


def _delivery(notification_id: str, at: str, account_id: str = "acme") -> Published:
    value = encode(Delivery(notification_id, "sms", account_id, "low_balance", "sent", 1, at))
    return Published("deliveries", account_id, value)

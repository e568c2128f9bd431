"""The leading worker publishes ticks; nobody else does."""

import asyncio
import json
from datetime import UTC

import pytest
from aiokafka.errors import KafkaTimeoutError

from app.ticker import publish_ticks
from tests.virtual_time import run_virtually


class Ticks:
    """What was published, and when by the loop's clock."""

    def __init__(self) -> None:
        self.is_leader = False
        self.is_away = False
        self.hanging: set[int] = set()
        """Partitions that can't be written, and nobody says so."""
        self.seen: list[tuple[float, int]] = []

    async def publish(self, topic: str, key: bytes | None, value: bytes, partition: int) -> None:
        assert (topic, key) == ("ticks", None)
        assert json.loads(value)["at"].endswith("+00:00")
        if self.is_away:
            raise KafkaTimeoutError
        if partition in self.hanging:
            await asyncio.get_running_loop().create_future()
        self.seen.append((asyncio.get_running_loop().time(), partition))

    async def run(self) -> None:
        await publish_ticks(
            self.publish,
            lambda: self.is_leader,
            topic="ticks",
            partitions=2,
            every_s=60,
            zone=UTC,
        )


async def _watch(ticks: Ticks, moments: list[tuple[float, bool, bool]]) -> None:
    running = asyncio.create_task(ticks.run())
    for until, is_leader, is_away in moments:
        ticks.is_leader, ticks.is_away = is_leader, is_away
        await asyncio.sleep(until - asyncio.get_running_loop().time())
    running.cancel()


def test_the_leader_publishes_one_into_every_partition_each_minute_and_the_first_at_once() -> None:
    ticks = Ticks()
    run_virtually(_watch(ticks, [(100.5, False, False), (230.5, True, False)]))
    assert ticks.seen == [(at, n) for at in (101.0, 161.0, 221.0) for n in (0, 1)]


def test_a_tick_that_fails_is_left_out_and_a_new_leader_begins_at_once() -> None:
    ticks = Ticks()
    moments = [(1.0, True, False), (100.0, True, True), (110.5, False, False), (130.5, True, False)]
    run_virtually(_watch(ticks, moments))
    assert [at for at, partition in ticks.seen if partition == 0] == [0.0, 111.0]


def test_a_partition_that_cant_be_written_stops_no_other() -> None:
    ticks = Ticks()
    ticks.hanging = {0}
    run_virtually(_watch(ticks, [(130.5, True, False)]))
    assert ticks.seen == [(0.0, 1), (60.0, 1), (120.0, 1)]


def test_a_partition_has_ticks_again_when_it_can_be_written() -> None:
    ticks = Ticks()
    ticks.hanging = {0}

    async def watch() -> None:
        asyncio.get_running_loop().call_later(100, ticks.hanging.clear)
        await _watch(ticks, [(130.5, True, False)])

    run_virtually(watch())
    assert [at for at, partition in ticks.seen if partition == 0] == [120.0]


def test_what_is_no_error_of_kafka_s_ends_it() -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        await publish_ticks(broken, lambda: True, topic="ticks", partitions=2, every_s=60, zone=UTC)

    with pytest.raises(ZeroDivisionError):
        run_virtually(run())

"""Brokers that are away for a while, and workers that go on when they are back.

.venv/bin/python -m tests.faults.outages --outages 10 --groups 6 --seed 1
.venv/bin/python -m tests.faults.outages --outages 6 --groups 3 --cluster

Several groups of one worker share the brokers; an outage is one for all of them. Each group must
move on after each outage, and its books are compared with the oracle's at the end. Mostly idle:
several of these run side by side.
"""

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.local.stack import Stack
from streams.kafka.producer import within
from tests.faults.cluster import Cluster
from tests.faults.suite import Round, away, log_of

GROUPS = 6
PARTITIONS = 2
CALLS = 300
MOVES_ON_SECONDS = 120.0
"""On a machine that does other things too; 5 to 15 s where it doesn't."""
SETTLE_SECONDS = 600.0
LENGTHS_SECONDS = (5.0, 10.0, 20.0, 45.0, 45.0, 90.0, 180.0)
BEGINS_EVERY_SECONDS = 8.0
MOST_LINES = 60
"""That a worker says about one outage."""


async def moves_on(round_: Round, within_s: float = MOVES_ON_SECONDS) -> float:
    """Wait until a group's worker is ready and has folded every call and every notification that
    there is now; return how long that took.

    Fails when it doesn't, or when its worker has ended.
    """
    began = time.monotonic()
    topics = round_.installation.topics
    ends: dict[TopicPartition, int] | None = None
    while True:
        round_.check_workers()
        with suppress(KafkaError, OSError):
            if ends is None:
                ends = await _ends(round_, [topics.calls, topics.notifications])
            if await asyncio.to_thread(round_.workers[0].is_serving) and await _is_past(
                round_, ends
            ):
                return time.monotonic() - began
        if time.monotonic() - began > within_s:
            raise AssertionError(
                f"{round_.installation.name} doesn't move on: {round_.workers[0].last_words()}"
            )
        await asyncio.sleep(0.5)


async def _ends(round_: Round, names: list[str]) -> dict[TopicPartition, int]:
    """Return the offsets behind the last committed records."""
    return {
        TopicPartition(name, record.partition): record.offset + 1
        for name in names
        for record in await round_.installation.read_named(name)
    }


async def _is_past(round_: Round, ends: dict[TopicPartition, int]) -> bool:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=round_.installation.brokers,
        group_id=round_.installation.name,
        enable_auto_commit=False,
    )
    try:
        await consumer.start()
        return all([(await consumer.committed(tp) or 0) >= end for tp, end in ends.items()])
    finally:
        await within(10.0, consumer.stop())


async def of_one_broker(servers: Stack | Cluster, rng: random.Random) -> str:
    """One outage; what it was."""
    length_s, is_slow = rng.choice(LENGTHS_SECONDS), rng.random() < 0.25
    await away([servers.kafka], length_s, is_slow=is_slow)
    return f"{length_s:.0f} s{', started slowly' if is_slow else ''}"


async def of_a_cluster(servers: Stack | Cluster, rng: random.Random) -> str:
    """Two of three brokers are too few for min.insync.replicas, three are all."""
    assert isinstance(servers, Cluster)
    length_s, count = rng.choice(LENGTHS_SECONDS), rng.choice((1, 2, 3))
    await away(list(rng.sample(servers.brokers, count)), length_s)
    return f"{length_s:.0f} s, {count} of {len(servers.brokers)} brokers"


async def run(
    servers: Stack | Cluster, directory: Path, seed: int, *, groups: int, outages: int
) -> None:
    """Run the groups through outages in a row. Raises AssertionError at the first that fails."""
    rng, over = random.Random(seed), asyncio.Event()

    async def until_over(round_: Round) -> None:
        await over.wait()

    is_cluster = isinstance(servers, Cluster)
    rounds = [
        Round(
            servers,
            directory / f"group-{number}",
            seed * 100 + number,
            calls=CALLS,
            partitions=PARTITIONS,
            replication=3 if is_cluster else 1,
            workers=1,
            settle_s=SETTLE_SECONDS,
        )
        for number in range(groups)
    ]

    async def play(round_: Round, begins_after_s: float) -> None:
        await asyncio.sleep(begins_after_s)  # seventeen topics each: one group after the other
        await round_.run(until_over)

    running = [
        asyncio.create_task(play(round_, number * BEGINS_EVERY_SECONDS))
        for number, round_ in enumerate(rounds)
    ]

    async def strike() -> None:
        await asyncio.gather(*(round_.streaming.wait() for round_ in rounds))
        await asyncio.gather(*(round_.ready(round_.workers[0], 120.0) for round_ in rounds))
        for number in range(outages):
            await asyncio.sleep(rng.uniform(5.0, 8.0))
            said = [len(log_of(round_.workers[0]).splitlines()) for round_ in rounds]
            told = await (of_a_cluster if is_cluster else of_one_broker)(servers, rng)
            taken = await asyncio.gather(*(moves_on(round_) for round_ in rounds))
            for round_, before in zip(rounds, said, strict=True):
                lines = log_of(round_.workers[0]).splitlines()[before:]
                assert len(lines) <= MOST_LINES, lines[-MOST_LINES:]
            print(
                f"{time.strftime('%H:%M:%S')} seed {seed} outage {number + 1}: {told}; "
                f"all {groups} groups moved on within {max(taken):.0f} s",
                flush=True,
            )
        over.set()

    striking = asyncio.create_task(strike())
    try:
        # Whichever fails first ends it.
        for done in asyncio.as_completed([striking, *running]):
            await done
    finally:
        for task in (striking, *running):
            task.cancel()
        await asyncio.wait([striking, *running])
    calls = sum(round_.history.calls for round_ in rounds)
    print(f"ok  seed {seed}: {outages} outages, {groups} groups, {calls} calls", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outages", type=int, default=10)
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--cluster", action="store_true", help="three brokers, min.insync 2")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="dialwatch-outages-"))
    with Cluster() if given.cluster else Stack() as servers:
        try:
            asyncio.run(
                run(servers, directory, given.seed, groups=given.groups, outages=given.outages)
            )
        except Exception as error:
            for broker in getattr(servers, "brokers", [servers.kafka]):
                shutil.copy(broker.log, directory / f"kafka-{broker.port}.log")
            told = " ".join((str(error) or repr(error)).split())[:500]
            print(f"FAILED  seed {given.seed}: {told}; logs: {directory}", flush=True)
            return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

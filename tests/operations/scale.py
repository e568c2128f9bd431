"""`make bench-operators`: how long the operators' commands take on a large installation.

A changelog as a million accounts leave it (all of one of 8 partitions: each account's record, and
its tally three times, in transactions), and deliveries of a month. Each figure is a whole
`dialwatch` process, from its start to its end, by wall clock and by its own CPU.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table as Shown

from app.local.kafka import Kafka
from streams.records import Delivery, Notification, encode
from streams.topics import partition_of
from tables import state_tables
from tables.balances import Balance
from tables.batches import Batch
from tables.customers import Customer
from tables.runs import Run
from tables.state_tables import PartitionClock
from tables.tallies import Tally
from tests.installation import Installation

PARTITIONS = 8
_BATCH = 5_000
_NOW = 1_770_000_000_000_000

Pair = tuple[bytes, bytes]


def accounts(count: int) -> tuple[int, list[bytes]]:
    """Return the partition of the first account, and all accounts that lie there."""
    keys = [b"account-%07d" % number for number in range(count)]
    here = partition_of(keys[0], PARTITIONS)
    return here, [key for key in keys if partition_of(key, PARTITIONS) == here]


def changelog(keys: list[bytes]) -> Iterator[Pair]:
    """What a worker wrote of them: who they are, then three rounds of calls."""
    for key in keys:
        who = Customer(
            f"{key.decode()}有限公司", f"o{key.decode()}", "13812345678", "AB", 5000, _NOW, None, 7
        )
        yield state_tables.CUSTOMERS.prefix + key, state_tables.CUSTOMERS.encode(who)
    yield state_tables.CLOCKS.prefix, state_tables.CLOCKS.encode(PartitionClock(_NOW, 7))
    for seen in range(1, 4):
        for key in keys:
            tally = Tally(
                Run(seen, f"{key.decode()}-call-1", _NOW, _NOW),
                _NOW,
                Batch(1000, seen, _NOW, _NOW, bytearray(b"\x07\0\0\0")),
                Balance(123456),
                "AB",
                5000,
            )
            yield state_tables.TALLIES.prefix + key, state_tables.TALLIES.encode(tally)


def told(keys: list[bytes], count: int) -> Iterator[tuple[Pair, Pair]]:
    """Commands of these accounts, one after the other, and what became of them."""
    for number in range(count):
        key = keys[number % len(keys)]
        account, notification = key.decode(), f"{number:032x}"
        command = Notification(
            notification, "low_balance", account, "wechat", "2026-02-14T10:00:00+08:00",
            "余额不足", "尊敬的客户，您的账户余额已不足￥50.00，请及时充值。", None,
            {"balance": "1.00", "threshold": "50.00"},
        )  # fmt: skip
        delivery = Delivery(
            notification, "wechat", account, "low_balance", "sent", 1,
            "2026-02-14T10:00:01+08:00", provider_id=str(number),
        )  # fmt: skip
        yield (key, encode(command)), (key, encode(delivery))


async def fill(brokers: str, topic: str, partition: int, pairs: Iterable[Pair]) -> int:
    """Write records in transactions, as a worker does; return how many."""
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, transactional_id=f"scale-{topic}", max_batch_size=900_000
    )
    await producer.start()
    count = 0
    try:
        batch = producer.create_batch()
        async with producer.transaction():
            for key, value in pairs:
                if batch.record_count() == _BATCH or (
                    batch.append(key=key, value=value, timestamp=None) is None
                ):
                    await producer.send_batch(batch, topic, partition=partition)
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
                count += 1
            await producer.send_batch(batch, topic, partition=partition)
            await producer.flush()
    finally:
        await producer.stop()
    return count


def timed(installation: Installation, *arguments: str, repeats: int) -> tuple[float, float, int]:
    """Return the best wall clock and CPU seconds of a command, and how many lines it printed."""
    best = (float("inf"), float("inf"))
    lines = 0
    for _ in range(repeats):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            env=installation.environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best, lines = min(best, (wall, cpu)), len(ran.stdout.splitlines())
    return *best, lines


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--deliveries", type=int, default=1_000_000, help="in one partition")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        brokers = os.environ.get("DIALWATCH_TEST_BOOTSTRAP_SERVERS")
        if not brokers:
            server = Kafka(directory / "kafka")
            server.start()
            opened.callback(server.kill)
            brokers = server.bootstrap_servers
        installation = Installation(brokers, "redis://127.0.0.1:1/0", directory)
        installation.variables["DIALWATCH_PARTITIONS"] = str(PARTITIONS)
        asyncio.run(installation.create_topics())
        opened.callback(installation.close)
        _measure(installation, given.accounts, given.deliveries, given.repeats)


def _measure(installation: Installation, count: int, deliveries: int, repeats: int) -> None:
    topics, brokers = installation.topics, installation.brokers
    here, keys = accounts(count)
    written = asyncio.run(fill(brokers, topics.changelog, here, changelog(keys)))
    commands, ends = zip(*told(keys, deliveries), strict=True) if deliveries else ((), ())
    asyncio.run(fill(brokers, topics.notifications, here, commands))
    asyncio.run(fill(brokers, topics.deliveries, here, ends))
    first, last = keys[0].decode(), keys[-1].decode()
    table = Shown(title=f"{count:,} accounts: {written:,} records of state in the partition")
    for head in ("command", "seconds", "CPU s", "lines"):
        table.add_column(head, justify="left" if head == "command" else "right")
    figures = {}
    for arguments in (
        ("--version",),
        ("state", "account", first),
        ("state", "account", last),
        ("explain", "account", first),
        ("deliveries",),
        ("deliveries", "--account", first),
        ("deliveries", "--notification", f"{0:032x}"),
        ("lag",),
    ):
        wall, cpu, lines = timed(installation, *arguments, repeats=repeats)
        figures[" ".join(arguments)] = round(wall, 2)
        table.add_row(" ".join(arguments), f"{wall:.2f}", f"{cpu:.2f}", str(lines))
    Console(width=120).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""`python -m tests.bench.fairness`: who waits for whom, while there is a lot to do.

    backlog   calls of many accounts lie there when a worker starts, all partitions alike; how far
              partitions drift apart, and how long an alert noticed meanwhile waits for its dispatch
    fan-out   alerts at a steady rate, calm and then while announcements go to every account

Times are those of the records: when a worker wrote the command, and when the inbox message.
"""

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from app.local.dialer import Event
from app.local.stack import Stack
from streams.topics import ContractTopic
from tests.bench.__main__ import PARTITIONS, placed, prefill
from tests.bench.load import account_records, call_records
from tests.installation import Installation
from tests.samples import account, announcement, call

ALERT_RATE = 50
_EVERY = 200
"""One call in so many finishes a batch of its own, and is an alert."""


class Waited(NamedTuple):
    """How long alerts waited, in seconds."""

    alerts: int
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Waited":
        found = sorted(seconds)
        return cls(len(found), statistics.median(found), found[int(len(found) * 0.99)])

    def __str__(self) -> str:
        return f"{self.alerts} alerts, p50 {self.p50:.3f} s, p99 {self.p99:.3f} s"


def alerting(events: list[Event]) -> list[Event]:
    """Return calls of which one in some hundred finishes a batch of one number."""
    made = []
    for number, event in enumerate(events):
        if number % _EVERY == 7:
            said = json.loads(event.value)
            second = datetime.fromtimestamp(1_760_000_000 + number, UTC)
            said |= {"batch_size": 1, "batch_index": 0, "submitted_at": second.isoformat()}
            value = msgspec.json.encode(said)
            made.append(Event(event.topic, event.key, value, event.partition))
        else:
            made.append(event)
    return made


async def drift(installation: Installation, count: int) -> float:
    """Follow the group to the end; return how far partitions were apart at most, as a share."""
    topic = installation.topics.calls
    tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(bootstrap_servers=installation.brokers)
    await consumer.start()
    ends = await consumer.end_offsets(tps)
    await consumer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.brokers)
    await admin.start()
    most = 0.0
    try:
        while True:
            found = await admin.list_consumer_group_offsets(installation.name, partitions=tps)
            done = {tp: max(found[tp].offset, 0) for tp in tps}
            # At the very begin and end partitions are few cycles from nothing and from all.
            if 0.02 * count < sum(done.values()) < 0.98 * count:
                shares = [done[tp] / ends[tp] for tp in tps]
                most = max(most, max(shares) - min(shares))
            if sum(done.values()) >= count:
                return most
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def waited(installation: Installation) -> Waited:
    """How long after its command each inbox message was written."""
    written = {}
    for record in await installation.read("notifications"):
        said = json.loads(record.value)
        if said["channel"] == "inbox":
            written[said["notification_id"]] = record.timestamp
    inbox = await installation.read("inbox-messages")
    return Waited.of(
        (record.timestamp - written[json.loads(record.value)["message_id"]]) / 1000
        for record in inbox
    )


def measure_backlog(stack: Stack, directory: Path, calls: int, accounts: int) -> None:
    """Prefill, start one worker, and print."""
    made = Installation(stack.bootstrap_servers, stack.redis_url, directory)
    made.variables |= {"DIALWATCH_PARTITIONS": str(PARTITIONS), "DIALWATCH_TICK_SECONDS": "1"}
    asyncio.run(made.create_topics())
    events = alerting(placed(call_records(calls, accounts, "uniform"), ContractTopic.CALL_RECORDS))
    asyncio.run(prefill(made.brokers, made.topics.calls, events))
    del events
    began = time.monotonic()
    made.worker()
    apart = asyncio.run(drift(made, calls))
    seconds = time.monotonic() - began
    time.sleep(2)
    print(
        f"backlog of {calls:,} calls of {accounts:,} accounts, {seconds:.1f} s: partitions at most "
        f"{apart:.1%} apart; {asyncio.run(waited(made))}"
    )
    made.close()


async def alert(installation: Installation, seconds: float, tag: str) -> Waited:
    """Publish interested customers at a steady rate; time them until their inbox messages."""
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers, linger_ms=0)
    consumer = AIOKafkaConsumer(
        installation.topics.name(ContractTopic.INBOX_MESSAGES),
        bootstrap_servers=installation.brokers,
        isolation_level="read_committed",
        fetch_max_wait_ms=20,
    )
    await producer.start()
    await consumer.start()
    await consumer.seek_to_end()
    published: dict[str, float] = {}
    found: list[float] = []

    async def read() -> None:
        async for record in consumer:
            if b'"announcement"' not in record.value:
                at = published.get(json.loads(record.value)["cause"].get("call_id"))
                if at is not None:
                    found.append(time.monotonic() - at)

    reading = asyncio.create_task(read())
    began = time.monotonic()
    for number in range(int(seconds * ALERT_RATE)):
        await asyncio.sleep(max(0.0, began + number / ALERT_RATE - time.monotonic()))
        one = call(f"account-{number % 100}", number, result="A", call_id=f"{tag}{number}")
        published[f"{tag}{number}"] = time.monotonic()
        await producer.send(
            installation.topics.calls, msgspec.json.encode(one.value), key=str(one.key).encode()
        )
    await asyncio.sleep(3)
    reading.cancel()
    await producer.stop()
    await consumer.stop()
    return Waited.of(found)


def measure_fan_out(stack: Stack, directory: Path, accounts: int, announcements: int) -> None:
    """Alerts calm, then while announcements go out, and print both."""
    made = Installation(stack.bootstrap_servers, stack.redis_url, directory)
    made.variables["DIALWATCH_PARTITIONS"] = str(PARTITIONS)
    asyncio.run(made.create_topics())
    # Those who are alerted have names of their own; a fan-out is to everybody.
    some = [account(f"account-{number}", intent_classes=["A"]) for number in range(100)]
    asyncio.run(made.publish(some))
    many = placed(account_records(accounts), ContractTopic.ACCOUNTS)
    asyncio.run(prefill(made.brokers, made.topics.accounts, many))
    made.worker()
    calm = asyncio.run(alert(made, 10, "calm"))
    asyncio.run(made.publish(announcement(f"news-{number}") for number in range(announcements)))
    began = time.monotonic()
    beside = asyncio.run(alert(made, 20, "beside"))
    wanted = announcements * (accounts + len(some))
    while True:
        records = asyncio.run(made.read("inbox-messages"))
        told = [one.timestamp for one in records if b'"announcement"' in one.value]
        if len(told) >= wanted:
            break
        if time.monotonic() - began > 600:
            raise SystemExit(f"only {len(told)} of {wanted} announcements arrived")
        time.sleep(1)
    print(
        f"fan-out of {announcements} announcements to {accounts:,} accounts in "
        f"{(max(told) - min(told)) / 1000:.1f} s: calm {calm}; beside it {beside}: "
        f"{beside.p99 / calm.p99:.2f} x"
    )
    made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=600_000)
    parser.add_argument("--accounts", type=int, default=300_000)
    parser.add_argument("--told", type=int, default=20_000, help="accounts of a fan-out")
    parser.add_argument("--announcements", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as directory, Stack(heap_mb=768) as stack:
            measure_backlog(stack, Path(directory) / "backlog", given.calls, given.accounts)
            measure_fan_out(stack, Path(directory) / "out", given.told, given.announcements)


if __name__ == "__main__":
    main()

"""How long partitions pause when workers come, go, die and freeze; and how soon two share.

.venv/bin/python -m tests.faults.pauses

Ten calls a second and partition, each of which is told at once; the pause of an event is the
longest time from a call's publishing to its command's, for calls published around the event.
"""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer

from app.local.stack import Stack
from tests.faults.history import History
from tests.faults.suite import SESSION_SECONDS, Round

EVERY_SECONDS = 0.1
PARTITIONS = 8


class Probe:
    """Publishes calls and remembers when."""

    def __init__(self, round_: Round) -> None:
        self.installation = round_.installation
        self.keys: dict[int, str] = {}
        place = History(round_.rng, PARTITIONS).place
        for number in range(1000):
            self.keys.setdefault(place(f"acc-{number}"), f"acc-{number}")
        self.marks: list[tuple[str, float, float]] = []
        self.is_over = False

    async def publish(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.installation.brokers, enable_idempotence=True, acks="all"
        )
        try:
            await producer.start()
            for key in self.keys.values():
                account = {"account_id": key, "name": key, "intent_classes": ["A"],
                           "channels": {"interested_customer": ["inbox"]}}  # fmt: skip
                await self._send(producer, "accounts", key, account)
            number = 0
            while not self.is_over:
                for key in self.keys.values():
                    number += 1
                    await self._send(producer, "call-records", key, {
                        "call_id": f"c{number}", "account_id": key, "line_id": f"line-{key}",
                        "result": "A", "phone": "137", "submitted_at": "2026-11-01T09:00:00+08:00",
                        "batch_size": 1_000_000, "batch_index": number,
                        "ended_at": "2026-11-01T10:00:00+08:00",
                    })  # fmt: skip
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, topic: str, key: str, value: object) -> None:
        topic = f"{self.installation.name}.{topic}"
        await producer.send_and_wait(topic, json.dumps(value).encode(), key=key.encode())

    async def event(self, name: str, happen: Callable[[], Awaitable[None]], last_s: float) -> None:
        """Let something happen, and time pass after it."""
        await asyncio.sleep(3.0)
        began = time.time()
        await happen()
        await asyncio.sleep(last_s)
        self.marks.append((name, began, time.time()))

    async def pauses(self) -> list[str]:
        """Return a line for each event."""
        told = {
            json.loads(record.value)["cause"]["call_id"]: record.timestamp / 1000
            for record in await self.installation.read("notifications")
        }
        latencies = []
        for record in await self.installation.read("call-records"):
            at = record.timestamp / 1000
            call_id = json.loads(record.value)["call_id"]
            if call_id in told:
                latencies.append((at, told[call_id] - at, record.partition))
        lines = []
        for name, began, ended in self.marks:
            longest: dict[int, float] = {}
            for at, latency, partition in latencies:
                if began - SESSION_SECONDS <= at <= ended:
                    longest[partition] = max(longest.get(partition, 0.0), latency)
            seconds = sorted(longest.values())
            lines.append(
                f"{name:28} longest pause of a partition {seconds[-1]:.1f} s, "
                f"of the least touched one {seconds[0]:.1f} s"
            )
        return lines


async def measure(stack: Stack, directory: Path) -> None:
    round_ = Round(stack, directory, 1, partitions=PARTITIONS)
    installation = round_.installation
    await installation.create_topics()
    first, second = (installation.worker(is_started=False) for _ in range(2))
    first.launch()
    await round_.ready(first)
    probe = Probe(round_)
    publishing = asyncio.create_task(probe.publish())
    await asyncio.sleep(3.0)

    async def join() -> None:
        began = time.monotonic()
        second.launch()
        while True:
            try:
                shares = [
                    len(worker.partitions().get(installation.topics.calls, []))
                    for worker in (first, second)
                ]
                if sorted(shares) == [PARTITIONS // 2] * 2 and second.is_serving():
                    break
            except (OSError, ValueError, KeyError):
                pass
            await asyncio.sleep(0.05)
        print(f"two workers share {time.monotonic() - began:.1f} s after the start of the second")

    async def leave() -> None:
        second.terminate()
        await round_.gone(second, 30.0)

    async def die() -> None:
        second.kill()

    async def freeze() -> None:
        second.pause()

    async def wake() -> None:
        second.resume()

    try:
        await probe.event("a worker joins", join, 3.0)
        await probe.event("it leaves (SIGTERM)", leave, 3.0)
        await probe.event("it joins again", join, 3.0)
        await probe.event(f"it dies (session {SESSION_SECONDS} s)", die, SESSION_SECONDS + 6.0)
        await probe.event("it joins again", join, 3.0)
        await probe.event(f"it freezes ({SESSION_SECONDS} s)", freeze, SESSION_SECONDS + 6.0)
        await probe.event("the zombie wakes", wake, 8.0)
        probe.is_over = True
        await publishing
        await asyncio.sleep(3.0)
        for line in await probe.pauses():
            print(line)
    finally:
        probe.is_over = True
        await asyncio.to_thread(installation.close)


def main() -> None:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory, Stack() as stack:
        asyncio.run(measure(stack, Path(directory)))


if __name__ == "__main__":
    main()

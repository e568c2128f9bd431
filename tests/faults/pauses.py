"""How long partitions pause when workers come, go, die and freeze; and how soon two share.

.venv/bin/python -m tests.faults.pauses
.venv/bin/python -m tests.faults.pauses --partitions 64 --workers 8

Ten calls a second and partition, each of which is told at once; the
pause of an event is the longest time from a call's publishing to its command's, for calls published
around the event: of the partitions that had another owner after it, and of those that had not.
"""

import argparse
import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer

from app.local.stack import Stack
from app.local.worker import WorkerProcess
from tests.faults.history import History
from tests.faults.suite import SESSION_SECONDS, Round

EVERY_SECONDS = 0.1


class Probe:
    """Publishes calls and remembers when."""

    def __init__(self, round_: Round, partitions: int) -> None:
        self.installation = round_.installation
        self.keys: dict[int, str] = {}
        place = History(round_.rng, partitions).place
        for number in range(100 * partitions):
            self.keys.setdefault(place(f"acc-{number}"), f"acc-{number}")
        self.marks: list[tuple[str, float, float, set[int]]] = []
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
            await producer.flush()
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, topic: str, key: str, value: object) -> None:
        topic = f"{self.installation.name}.{topic}"
        await producer.send(topic, json.dumps(value).encode(), key=key.encode())

    async def event(self, name: str, happen: Callable[[], Awaitable[None]], last_s: float) -> None:
        """Let something happen, and time pass after it."""
        await asyncio.sleep(3.0)
        began, before = time.time(), self._owners()
        await happen()
        await asyncio.sleep(last_s)
        after = self._owners()
        moved = {number for number, owner in before.items() if after.get(number) != owner}
        self.marks.append((name, began, time.time(), moved))

    def _owners(self) -> dict[int, WorkerProcess]:
        """Return which worker says that it has which partition of the calls."""
        found = {}
        for worker in self.installation.workers:
            try:
                mine = worker.partitions().get(self.installation.topics.calls, [])
            except (OSError, ValueError, KeyError):  # it is gone, or frozen
                continue
            found |= dict.fromkeys(mine, worker)
        return found

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
        for name, began, ended, moved in self.marks:
            longest: dict[int, float] = {}
            for at, latency, partition in latencies:
                if began - SESSION_SECONDS <= at <= ended:
                    longest[partition] = max(longest.get(partition, 0.0), latency)
            stayed = longest.keys() - moved
            lines.append(
                f"{name:28} {len(moved)} moved, longest pause {_most(longest, moved)}; "
                f"{len(stayed)} stayed, {_most(longest, stayed)}"
            )
        return lines


def _most(longest: dict[int, float], partitions: set[int]) -> str:
    found = [longest[number] for number in partitions if number in longest]
    return f"{max(found):.1f} s" if found else "–"


async def measure(stack: Stack, directory: Path, partitions: int, workers: int) -> None:
    round_ = Round(stack, directory, 1, partitions=partitions)
    installation = round_.installation
    await installation.create_topics()
    *others, last = (installation.worker(is_started=False) for _ in range(workers))
    for worker in others:
        worker.launch()
    for worker in others:
        await round_.ready(worker)
    probe = Probe(round_, partitions)
    publishing = asyncio.create_task(probe.publish())
    await asyncio.sleep(3.0 + workers)

    async def join() -> None:
        began = time.monotonic()
        last.launch()
        while True:
            if _is_shared(installation.workers, installation.topics.calls, partitions):
                break
            await asyncio.sleep(0.05)
        print(f"all share {time.monotonic() - began:.1f} s after the start of the last")

    async def leave() -> None:
        last.terminate()
        await round_.gone(last, 30.0)

    async def die() -> None:
        last.kill()

    async def freeze() -> None:
        last.pause()

    async def wake() -> None:
        last.resume()

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


def _is_shared(workers: Sequence[WorkerProcess], topic: str, partitions: int) -> bool:
    """Does every worker have its share, and serve?"""
    try:
        shares = [len(worker.partitions().get(topic, [])) for worker in workers]
        return (
            sum(shares) == partitions
            and max(shares) - min(shares) <= 1
            and all(worker.is_serving() for worker in workers)
        )
    except (OSError, ValueError, KeyError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory, Stack() as stack:
        asyncio.run(measure(stack, Path(directory), given.partitions, given.workers))


if __name__ == "__main__":
    main()

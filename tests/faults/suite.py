"""One round of trouble: real workers on a real Kafka, one kind of fault, and the books compared.

Whatever happens on the way, in the end the commands (read committed), the inbox, the deliveries
and the phones are those of a plain sequential reading of the input by the naive oracle.
"""

import asyncio
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from app.local.stack import Stack
from app.local.worker import WorkerProcess
from app.sandbox.run import running_sandbox
from app.sandbox.server import Sandbox
from streams.engine import fault_points
from tests.installation import PARTITIONS, Installation
from tests.oracle import Oracle, comparable, normalized

ZONE = ZoneInfo("Asia/Shanghai")
RUN_LENGTH = 10
SESSION_SECONDS = 6
CALLS = 3_000
CHUNK = 10
PAUSE_SECONDS = 0.03
SETTLE_SECONDS = 150.0
FINAL = {"sent", "skipped", "failed"}


class Round:
    """One seed, one fault."""

    def __init__(self, stack: Stack, directory: Path, seed: int, calls: int = CALLS) -> None:
        self.stack = stack
        self.rng = random.Random(seed)
        self.calls = calls
        self.installation = Installation(stack.bootstrap_servers, stack.redis_url, directory)
        self.installation.variables |= {
            "DIALWATCH_RUN_LENGTH": str(RUN_LENGTH),
            "DIALWATCH_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
            "DIALWATCH_WECHAT_RATE": "2000",
        }
        self.workers: list[WorkerProcess] = []

    async def run(self, fault: "Fault") -> None:
        """Publish while the fault strikes; then wait for the end and compare."""
        with running_sandbox() as (sandbox, environment):
            self.installation.variables |= environment
            await self.installation.create_topics()
            try:
                self.workers = [self.installation.worker(is_started=False) for _ in range(2)]
                for worker in self.workers:
                    worker.launch()
                striking = asyncio.create_task(fault(self))
                await self.publish()
                await striking
                for worker in self.workers:
                    worker.resume()
                    if worker.pid is None:
                        worker.launch()
                await self.settle()
                await self.compare(sandbox)
            finally:
                await asyncio.to_thread(self.installation.close)

    # -- what is published --------------------------------------------------------------------

    def records(self) -> list[tuple[str, str, Any]]:
        """Calls of runs, batches and lines, with repeats, rubbish, recharges, an announcement."""
        rng, now = self.rng, datetime(2026, 11, 1, 10, 0, tzinfo=ZONE)
        names = [f"acc-{number}" for number in range(12)]
        books = {name: (0, rng.randrange(20, 60)) for name in names}
        batch = Counter[str]()
        made: list[tuple[str, str, Any]] = []
        sticky = dict.fromkeys(names, "F")
        for number in range(self.calls):
            now += timedelta(seconds=1)
            name = rng.choice(names)
            index, size = books[name]
            if index == size:
                batch[name] += 1
                index, size = 0, rng.randrange(20, 60)
            books[name] = index + 1, size
            if rng.random() < 0.08:
                sticky[name] = rng.choice("FFFWWABE")
            call = {
                "call_id": f"c{number}",
                "account_id": name,
                # All calls of a line come through one partition: their order is known then.
                "line_id": f"line-{place(name)}",
                "result": sticky[name],
                "phone": "13700000000",
                "submitted_at": (now.replace(hour=9, minute=0, second=0) + timedelta(
                    minutes=batch[name])).isoformat(),
                "batch_size": size,
                "batch_index": index,
                "ended_at": now.isoformat(),
                "balance": f"{rng.randrange(0, 200)}.00",
            }  # fmt: skip
            made.append(("call-records", name, call))
            if rng.random() < 0.05:
                made.append(made[rng.randrange(max(0, len(made) - 300), len(made))])
            if rng.random() < 0.005:
                made.append(("call-records", name, b"rubbish"))
            if rng.random() < 0.01:
                recharge = {
                    "recharge_id": f"r{rng.randrange(40)}",
                    "account_id": name,
                    "amount": "1.00",
                    "balance": "500.00",
                    "completed_at": now.isoformat(),
                }
                made.append(("recharges", name, recharge))
            if number == self.calls // 2:
                said = {
                    "announcement_id": "n1", "kind": "upgrade", "title": "t", "content": "c",
                    "published_at": now.isoformat(),
                }  # fmt: skip
                made.append(("announcements", "n1", said))
        return made

    async def publish(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.installation.brokers, enable_idempotence=True, acks="all"
        )
        await producer.start()
        try:
            for number in range(12):
                name = f"acc-{number}"
                await self._send(producer, "accounts", name, {
                    "account_id": name, "name": name, "openid": f"openid_{name}",
                    "intent_classes": ["A"] if number % 2 else [],
                })  # fmt: skip
            await producer.flush()
            records = self.records()
            for begin in range(0, len(records), CHUNK):
                for topic, key, value in records[begin : begin + CHUNK]:
                    await self._send(producer, topic, key, value)
                await asyncio.sleep(PAUSE_SECONDS)
            await producer.flush()
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, topic: str, key: str, value: Any) -> None:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        await producer.send(f"{self.installation.name}.{topic}", raw, key=key.encode())

    # -- what is expected ---------------------------------------------------------------------

    async def expected(self) -> Oracle:
        oracle = Oracle(
            RUN_LENGTH, timedelta(hours=24), timedelta(days=7), timedelta(days=7),
            datetime.min.time(), ZONE,
        )  # fmt: skip
        oracle.partition_of = place  # type: ignore[method-assign]
        for topic in ("accounts", "recharges", "call-records", "announcements"):
            for record in await self.installation.read(topic):
                value: Any = record.value
                if value != b"rubbish":
                    value = json.loads(value)
                oracle.take(topic, record.key.decode(), value, record.partition)
        return oracle

    async def settle(self) -> None:
        """Wait until as many notifications have ended as there should be, and no more come."""
        whole = len((await self.expected()).noticed)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            deliveries = await self.installation.read_values("deliveries")
            if len({one["notification_id"] for one in deliveries}) >= whole:
                await asyncio.sleep(1.0)
                return
            for worker in self.workers:
                if worker.pid is None:
                    raise AssertionError(f"a worker ended: {worker._last_words()}")
            await asyncio.sleep(0.5)
        # The comparison says what is missing.

    async def compare(self, sandbox: Sandbox) -> None:
        oracle = await self.expected()
        commands = await self.installation.read_values("notifications")
        assert comparable([normalized(one) for one in commands]) == comparable(oracle.noticed)
        assert len(await self.installation.read("dead-letters")) == oracle.invalid

        ids = {one["notification_id"]: one["channel"] for one in commands}
        inbox = Counter(
            one["message_id"] for one in await self.installation.read_values("inbox-messages")
        )
        assert inbox == Counter(key for key, channel in ids.items() if channel == "inbox")
        finals = Counter(
            one["notification_id"]
            for one in await self.installation.read_values("deliveries")
            if one["status"] in FINAL
        )
        assert finals == Counter(ids.keys())
        phones = Counter(one.client_msg_id for one in sandbox.wechat.messages)
        assert phones == Counter(key for key, channel in ids.items() if channel == "wechat")


def place(key: str) -> int:
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS)


Fault = Callable[[Round], Awaitable[None]]


# -- the faults -------------------------------------------------------------------------------


async def _some_time(round_: Round, least: float = 0.2, most: float = 2.0) -> None:
    await asyncio.sleep(round_.rng.uniform(least, most))


async def _gone(worker: WorkerProcess, within_s: float) -> bool:
    for _ in range(int(within_s / 0.05)):
        if worker.pid is None:
            return True
        await asyncio.sleep(0.05)
    return worker.pid is None


async def kill_at_random(round_: Round) -> None:
    """SIGKILL at any instant, and start again at once or later."""
    for _ in range(5):
        await _some_time(round_)
        worker = round_.rng.choice(round_.workers)
        worker.kill()
        await asyncio.sleep(round_.rng.choice([0, 0, 3.0]))
        worker.launch()
        await asyncio.sleep(2.0)


def crash_at(point: str) -> Fault:
    """Die at exactly the n-th passing of a point, three times over."""

    async def strike(round_: Round) -> None:
        for _ in range(3):
            worker = round_.rng.choice(round_.workers)
            worker.terminate()
            await _gone(worker, 20.0)
            passing = round_.rng.randrange(2, 12)
            worker.launch(DIALWATCH_TEST_CRASH_AT=f"{point}:{passing}")
            if await _gone(worker, 8.0):
                worker.launch()

    return strike


def freeze_at(point: str) -> Fault:
    """Freeze at a point for longer than the session lasts; then the zombie wakes up."""

    async def strike(round_: Round) -> None:
        worker = round_.rng.choice(round_.workers)
        worker.terminate()
        await _gone(worker, 20.0)
        worker.launch(DIALWATCH_TEST_FREEZE_AT=f"{point}:{round_.rng.randrange(2, 8)}")
        await asyncio.sleep(SESSION_SECONDS + 6.0)
        worker.resume()

    return strike


async def freeze_at_random(round_: Round) -> None:
    await _some_time(round_, 1.0, 4.0)
    worker = round_.rng.choice(round_.workers)
    worker.pause()
    await asyncio.sleep(SESSION_SECONDS + 4.0)
    worker.resume()


async def come_and_go(round_: Round) -> None:
    """A third worker joins and leaves every few seconds."""
    guest = round_.installation.worker(is_started=False)
    for _ in range(3):
        guest.launch()
        await _some_time(round_, 2.0, 4.0)
        guest.terminate()
        await _gone(guest, 30.0)


async def rolling_restart(round_: Round) -> None:
    for worker in round_.workers:
        await _some_time(round_, 1.0, 2.0)
        worker.terminate()
        assert await _gone(worker, 30.0)
        worker.launch()


async def pause_broker(round_: Round) -> None:
    await _some_time(round_, 1.0, 3.0)
    round_.stack.kafka.pause()
    await asyncio.sleep(15.0)
    round_.stack.kafka.resume()


async def kill_broker(round_: Round) -> None:
    await _some_time(round_, 1.0, 3.0)
    round_.stack.kafka.kill()
    await asyncio.to_thread(round_.stack.kafka.start)


async def redis_away(round_: Round) -> None:
    await _some_time(round_, 1.0, 3.0)
    round_.stack.valkey.kill()
    await asyncio.sleep(4.0)
    await asyncio.to_thread(round_.stack.valkey.start)


async def lose_directory(round_: Round) -> None:
    """A machine is lost with all that was on its disk."""
    await _some_time(round_, 1.0, 3.0)
    worker = round_.rng.choice(round_.workers)
    worker.kill()
    shutil.rmtree(worker.directory / "data")
    worker.launch()


FAULTS: dict[str, Fault] = {
    "kill-at-random": kill_at_random,
    **{f"crash-{point}": crash_at(point) for point in fault_points.POINTS},
    **{f"freeze-{point}": freeze_at(point) for point in fault_points.POINTS},
    "freeze-at-random": freeze_at_random,
    "come-and-go": come_and_go,
    "rolling-restart": rolling_restart,
    "pause-broker": pause_broker,
    "kill-broker": kill_broker,
    "redis-away": redis_away,
    "lose-directory": lose_directory,
}

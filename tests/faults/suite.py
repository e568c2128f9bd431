"""One round of the fault suite: real workers, a real Kafka, one kind of fault; compared with the
oracle at the end.

A fault that didn't happen proves nothing. So each one checks that the process did die or freeze
where it should, and that what should have been fenced was. A round fails if a worker ends by itself
although no fault ends it.
"""

import asyncio
import json
import random
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from app.local.kafka import Kafka
from app.local.valkey import Valkey
from app.local.worker import WorkerProcess
from app.sandbox.run import running_sandbox
from app.sandbox.server import Sandbox
from streams.engine import fault_points
from tests.faults.books import FINAL, compare, difference, shared_alerts
from tests.faults.history import LEGS, RUN_LENGTH, SHARED_LINE, Event, History
from tests.installation import PARTITIONS, Installation

SESSION_SECONDS = 6
RELEASE_0_1_0 = "61b90f7"
CALLS = 3_000
CHUNK = 10
PAUSE_SECONDS = 0.03
WAITING_PAUSE_SECONDS = 0.15
"""The pause between portions of calls when there are enough, but the fault isn't over."""
SETTLE_SECONDS = 360.0
"""The time for the longest outage, a slow start, and 90 s."""
STRIKE_SECONDS = 120.0
READY_SECONDS = 120.0
"""The time for a worker's start, and for the partitions to come to it."""
PUBLISH_MS = 600_000
START_SECONDS = 300.0
"""The limit for a broker's start after an outage, which may be slow."""
PAUSE_LIMIT_SECONDS = SESSION_SECONDS + 5.0
"""A dead worker's partitions are worked on again in this time: 2 s beyond the session in quiet,
a little more on a machine that does other things."""


class Servers(Protocol):
    """The servers of a round: a `Stack`, or the cluster of `cluster.py`."""

    kafka: Kafka
    valkey: Valkey

    @property
    def bootstrap_servers(self) -> str: ...

    @property
    def redis_url(self) -> str: ...


class Round:
    """One round, with one seed and one fault."""

    def __init__(
        self,
        servers: Servers,
        directory: Path,
        seed: int,
        *,
        calls: int = CALLS,
        turns: int = 3,
        partitions: int = PARTITIONS,
        replication: int = 1,
        workers: int = 2,
        settle_s: float = SETTLE_SECONDS,
        pause_limit_s: float = PAUSE_LIMIT_SECONDS,
    ) -> None:
        """`settle_s`: how long all that is published may take, faults included. `pause_limit_s`:
        how soon a dead worker's partitions must be worked on again."""
        self.servers = servers
        self.settle_s = settle_s
        self.pause_limit_s = pause_limit_s
        self._worker_count = workers
        self.rng = random.Random(seed)
        self.calls = calls
        self.turns = turns
        """How often a fault happens that happens more than once."""
        self.history = History(random.Random(seed), partitions)
        self.installation = Installation(servers.bootstrap_servers, servers.redis_url, directory)
        self.installation.variables |= {
            "DIALWATCH_PARTITIONS": str(partitions),
            "DIALWATCH_REPLICATION_FACTOR": str(replication),
            "DIALWATCH_RUN_LENGTH": str(RUN_LENGTH),
            "DIALWATCH_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
            "DIALWATCH_WECHAT_RATE": "2000",
        }
        self.workers: list[WorkerProcess] = []
        self.streaming = asyncio.Event()
        """Set in the last leg, in which calls are published until the fault is over."""
        self.notes: list[str] = []
        """Remarks for the round's line."""
        self.is_watched = True
        """Does a worker that ends fail the round?"""
        self.down: set[Path] = set()
        """Directories of workers that a fault has ended and not started again."""

    async def run(self, fault: "Fault") -> None:
        """Publish while the fault happens; then wait until all is folded and compare."""
        with running_sandbox() as (sandbox, environment):
            self.installation.variables |= environment
            await self.installation.create_topics()
            try:
                self.workers = [
                    self.installation.worker(is_started=False) for _ in range(self._worker_count)
                ]
                for worker in self.workers:
                    worker.launch()
                striking = asyncio.create_task(fault(self))
                try:
                    await self.publish(striking)
                    await striking
                    await self.stand_still()
                    await asyncio.sleep(1.0)  # what comes too often comes soon
                    await self._compare(sandbox)
                finally:
                    striking.cancel()
                    await asyncio.wait([striking])
            finally:
                with suppress(KafkaError, OSError):  # the topics end with their servers
                    await asyncio.to_thread(self.installation.close)

    async def _compare(self, sandbox: Sandbox) -> None:
        for _ in range(10):
            try:
                return await compare(self.installation, self.history, sandbox)
            except (KafkaError, OSError):
                await asyncio.sleep(1.0)  # a cluster that was just put together again
        return await compare(self.installation, self.history, sandbox)

    # -- publishing ---------------------------------------------------------------------------

    async def publish(self, striking: "asyncio.Task[None]") -> None:
        """Publish all legs; the last one goes on until the fault is over."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.installation.brokers,
            enable_idempotence=True,
            acks="all",
            # What is published outlives an outage, once.
            request_timeout_ms=PUBLISH_MS,
        )
        try:
            await producer.start()
            for leg in range(LEGS):
                await self.stand_still()
                for events in self.history.before_leg(leg):
                    await self._send(producer, events)
                    await self.stand_still()
                until = self.calls * (leg + 1) // LEGS
                if leg == LEGS - 1:
                    self.streaming.set()
                halfway = (self.history.calls + until) // 2
                is_announced = leg == 1
                while self.history.calls < until or (leg == LEGS - 1 and not striking.done()):
                    await self._send(producer, self.history.some(CHUNK))
                    if self.history.calls > halfway and not is_announced:
                        is_announced = True
                        await self._send(producer, self.history.announcement(leg))
                    enough = self.history.calls >= until
                    await asyncio.sleep(WAITING_PAUSE_SECONDS if enough else PAUSE_SECONDS)
                    if striking.done() and striking.exception():
                        await striking
            await self.stand_still()
            await self._send(producer, self.history.after_legs())
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, events: list[Event]) -> None:
        sent = []
        for topic, key, value, partition in events:
            raw = value if value is None or isinstance(value, bytes) else as_json(value)
            sent.append(
                await producer.send(
                    f"{self.installation.name}.{topic}",
                    raw,
                    key=None if key is None else key.encode(),
                    partition=partition,
                )
            )
        await asyncio.gather(*sent)

    async def stand_still(self) -> None:
        """Wait until all records are folded and all commands have ended."""
        deadline = time.monotonic() + self.settle_s
        state = "Kafka didn't answer"
        while time.monotonic() < deadline:
            self.check_workers()
            try:
                state = await self.what_is_left()
            except (KafkaError, OSError) as error:
                state = repr(error)
            if not state:
                return
            await asyncio.sleep(0.3)
        told = await difference(self.installation, self.history)
        raise AssertionError(f"after {self.settle_s:.0f} s: {state}; {told}")

    async def what_is_left(self) -> str:
        """Return what is still to be waited for; empty: nothing."""
        left = await self.installation.unfolded(self.installation.folded_topics)
        if any(left.values()):
            return ", ".join(f"{count} of {name} not folded" for name, count in left.items())
        # All is folded, so these are all that there will be.
        commands = await self.installation.read_values("notifications")
        shared = {one["cause"].get("line_id") == SHARED_LINE for one in commands}
        whole = len(self.history.oracle.noticed)
        count = sum(one["cause"].get("line_id") != SHARED_LINE for one in commands)
        if count != whole or (True not in shared and shared_alerts(self.history)):
            return f"{count} of {whole} notifications are there"
        deliveries = await self.installation.read_values("deliveries")
        ended = {one["notification_id"] for one in deliveries if one["status"] in FINAL}
        unsent = {one["notification_id"] for one in commands} - ended
        return f"{len(unsent)} notifications have not ended" if unsent else ""

    def check_workers(self) -> None:
        """Raise AssertionError where a worker has ended that no fault has ended."""
        for worker in self.workers if self.is_watched else ():
            if worker.directory in self.down:
                continue
            if worker.pid is None:
                raise AssertionError(f"a worker ended: {worker.last_words()}")

    # -- what faults do to workers ------------------------------------------------------------

    def pick(self) -> tuple[WorkerProcess, WorkerProcess]:
        """Return the victim and the other one."""
        victim = self.rng.choice(self.workers[:2])
        return victim, next(worker for worker in self.workers[:2] if worker is not victim)

    def launch(self, worker: WorkerProcess, **variables: str) -> None:
        worker.launch(**variables)
        self.down.discard(worker.directory)

    def kill(self, worker: WorkerProcess) -> None:
        """Kill a worker with SIGKILL. It must have been alive."""
        assert worker.pid is not None, worker.last_words()
        self.down.add(worker.directory)
        worker.kill()

    async def end(self, worker: WorkerProcess) -> None:
        """End a worker with SIGTERM: it must finish and exit with 0."""
        self.down.add(worker.directory)
        worker.terminate()
        code = await self.gone(worker, STRIKE_SECONDS)
        assert code == 0, f"exit {code} after SIGTERM: {worker.last_words()}"

    async def gone(self, worker: WorkerProcess, within_s: float) -> int:
        """Wait for a worker's end; return its exit code, negative for a signal."""
        deadline = time.monotonic() + within_s
        while worker.pid is not None:
            assert time.monotonic() < deadline, f"still there after {within_s:.0f} s"
            await asyncio.sleep(0.02)
        return worker.wait_exit()

    async def frozen(self, worker: WorkerProcess, within_s: float) -> None:
        """Wait until a worker has stopped itself at its freeze point."""
        deadline = time.monotonic() + within_s
        while not is_frozen(worker):
            assert worker.pid is not None, f"a worker ended: {worker.last_words()}"
            assert time.monotonic() < deadline, "the freeze point was never passed"
            await asyncio.sleep(0.02)

    async def alone(self, worker: WorkerProcess, within_s: float | None = None) -> float:
        """Wait until a worker alone has restored all partitions; return the seconds it took.
        `within_s`: None: the round's limit for a pause."""
        within_s = self.pause_limit_s if within_s is None else within_s
        began = time.monotonic()
        while True:
            taken = time.monotonic() - began
            try:
                calls = worker.partitions().get(self.installation.topics.calls, [])
                if len(calls) == self.installation.partitions and worker.is_serving():
                    return taken
            except (OSError, KeyError, ValueError):
                pass
            assert taken < within_s, f"nobody took over within {within_s:.0f} s"
            await asyncio.sleep(0.05)

    async def ready(self, worker: WorkerProcess, within_s: float = READY_SECONDS) -> None:
        """Wait until a worker has its share."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                if worker.is_serving() and worker.partitions():
                    return
            except (OSError, KeyError, ValueError):
                pass
            assert time.monotonic() < deadline, f"not ready after {within_s:.0f} s"
            await asyncio.sleep(0.1)

    def note(self, said: str) -> None:
        self.notes.append(said)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def is_frozen(worker: WorkerProcess) -> bool:
    """Has its process been stopped by a signal?"""
    if worker.pid is None:
        return False
    asked = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(worker.pid)], capture_output=True, text=True, check=False
    )
    return asked.stdout.startswith("T")


def log_of(worker: WorkerProcess) -> str:
    return worker.log.read_text(encoding="utf-8", errors="replace") if worker.log.exists() else ""


Fault = Callable[[Round], Awaitable[None]]


# -- the faults -------------------------------------------------------------------------------


async def _some_time(round_: Round, least: float = 0.2, most: float = 2.0) -> None:
    await asyncio.sleep(round_.rng.uniform(least, most))


async def _all_ready(round_: Round) -> None:
    for worker in round_.workers:
        await round_.ready(worker)


async def kill_at_random(round_: Round) -> None:
    """Kill a worker at a random moment, and start it again at once or later."""
    for _ in range(5):
        await _some_time(round_)
        worker, _ = round_.pick()
        round_.kill(worker)
        await asyncio.sleep(round_.rng.choice([0, 0, 3.0]))
        round_.launch(worker)
        await asyncio.sleep(2.0)


def crash_at(point: str) -> Fault:
    """Kill a worker at exactly the n-th passing of a point, several times. The last time the other
    worker must soon have taken everything over."""

    async def strike(round_: Round) -> None:
        for turn in range(round_.turns):
            await _all_ready(round_)
            worker, other = round_.pick()
            await round_.end(worker)
            passing = round_.rng.randrange(2, 12)
            round_.down.add(worker.directory)
            worker.launch(DIALWATCH_TEST_CRASH_AT=f"{point}:{passing}")
            code = await round_.gone(worker, STRIKE_SECONDS)
            assert code == -9, f"exit {code} instead of dying: {worker.last_words()}"
            if turn + 1 == round_.turns:
                round_.note(f"moved in {await round_.alone(other):.1f} s")
            round_.launch(worker)

    return strike


_FENCED_AT = {
    fault_points.HALF_PRODUCED,
    fault_points.BEFORE_OFFSETS,
    fault_points.BEFORE_COMMIT,
}
"""A worker that freezes here wakes up in the middle of a commit, which must fail."""


def freeze_at(point: str) -> Fault:
    """Freeze a worker at a point for longer than its session lasts; then let it go on."""

    async def strike(round_: Round) -> None:
        await _all_ready(round_)
        worker, other = round_.pick()
        await round_.end(worker)
        round_.launch(worker, DIALWATCH_TEST_FREEZE_AT=f"{point}:{round_.rng.randrange(2, 8)}")
        await round_.frozen(worker, STRIKE_SECONDS)
        said = len(log_of(worker))
        round_.note(f"moved in {await round_.alone(other):.1f} s")
        await _some_time(round_, 1.0, 3.0)  # the other one works on what the zombie had
        worker.resume()
        if point in _FENCED_AT:
            deadline = time.monotonic() + STRIKE_SECONDS
            while not (found := re.search("a commit failed, .*: (\\w+)", log_of(worker)[said:])):
                assert time.monotonic() < deadline, "the zombie's commit was not refused"
                await asyncio.sleep(0.1)
            round_.note(f"fenced by {found[1]}")

    return strike


async def wake_in_takeover(round_: Round) -> None:
    """Freeze a worker between offsets and commit, and let it go on during the other's takeover: the
    commit may still succeed after the other one has asked for the committed offsets."""
    for _ in range(round_.turns):
        await _all_ready(round_)
        worker, other = round_.pick()
        await round_.end(worker)
        point = f"{fault_points.BEFORE_COMMIT}:{round_.rng.randrange(3, 9)}"
        round_.launch(worker, DIALWATCH_TEST_FREEZE_AT=point)
        await round_.frozen(worker, STRIKE_SECONDS)
        said = len(log_of(other))
        deadline = time.monotonic() + round_.pause_limit_s
        while await asyncio.to_thread(other.is_serving):
            if "took over" in log_of(other)[said:]:
                round_.note("woken too late")  # a busy machine: the takeover is a matter of 0.5 s
                break
            assert time.monotonic() < deadline, "nobody noticed that a worker was frozen"
            await asyncio.sleep(0.01)
        await _some_time(round_, 0.0, 0.6)
        worker.resume()


async def freeze_at_random(round_: Round) -> None:
    await _all_ready(round_)
    await _some_time(round_, 0.5, 4.0)
    worker, other = round_.pick()
    worker.pause()
    await round_.frozen(worker, STRIKE_SECONDS)  # the kernel stops it in its own time
    await round_.alone(other)
    await _some_time(round_, 1.0, 3.0)
    worker.resume()


async def come_and_go(round_: Round) -> None:
    """Let a third worker join and leave every few seconds; sometimes kill it."""
    guest = round_.installation.worker(is_started=False)
    for turn in range(4):
        guest.launch()
        await _some_time(round_, 3.0, 5.0)
        if turn % 3 == 2:
            guest.kill()
        else:
            guest.terminate()
            await round_.gone(guest, STRIKE_SECONDS)


async def rolling_restart(round_: Round) -> None:
    await _all_ready(round_)
    for worker in round_.workers:
        await _some_time(round_, 0.5, 1.0)
        await round_.end(worker)
        round_.launch(worker)
        await round_.ready(worker)


async def pause_broker(round_: Round) -> None:
    await _all_ready(round_)
    await _some_time(round_, 0.5, 3.0)
    round_.servers.kafka.pause()
    await asyncio.sleep(15.0)
    round_.servers.kafka.resume()


async def kill_broker(round_: Round) -> None:
    await _all_ready(round_)
    await _some_time(round_, 0.5, 3.0)
    round_.servers.kafka.kill()
    await asyncio.to_thread(round_.servers.kafka.start)


def outage(length_s: float, *, is_slow: bool = False) -> Fault:
    """Kill the broker for a while, with open transactions; it starts again on the same data."""

    async def strike(round_: Round) -> None:
        await round_.streaming.wait()
        await _all_ready(round_)
        await _some_time(round_, 0.5, 3.0)
        await away([round_.servers.kafka], length_s, is_slow=is_slow)

    return strike


def outage_of(count: int, length_s: float) -> Fault:
    """Do the same to several brokers of a cluster at once: without two of three there are too few
    for min.insync.replicas."""

    async def strike(round_: Round) -> None:
        await round_.streaming.wait()
        await _all_ready(round_)
        brokers: list[Kafka] = round_.servers.brokers  # type: ignore[attr-defined]
        await away(round_.rng.sample(brokers, count), length_s)

    return strike


async def away(brokers: list[Kafka], length_s: float, *, is_slow: bool = False) -> None:
    """Kill brokers at once; start them again after a while, on the same data."""
    for broker in brokers:
        broker.kill()
        broker.start_seconds = START_SECONDS
    await asyncio.sleep(length_s)
    start = _start_slowly if is_slow else _start
    await asyncio.gather(*(start(broker) for broker in brokers))


async def _start(broker: Kafka) -> None:
    await asyncio.to_thread(broker.start)


async def _start_slowly(broker: Kafka) -> None:
    """Start a broker with a quarter of the CPU time it needs, so that its start takes long."""
    starting = asyncio.create_task(_start(broker))
    while not starting.done():
        broker.pause()
        await asyncio.sleep(0.3)
        broker.resume()
        await asyncio.sleep(0.1)
    await starting


async def full_disk(round_: Round) -> None:
    """Let the broker's files not grow any more: it ends, and starts again when there is room."""
    await _all_ready(round_)
    await _some_time(round_, 0.5, 3.0)
    kafka = round_.servers.kafka
    assert kafka.pid is not None
    _, hard = resource.prlimit(kafka.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(kafka.pid, resource.RLIMIT_FSIZE, (1, hard))
    deadline = time.monotonic() + STRIKE_SECONDS
    while kafka.pid is not None:
        assert time.monotonic() < deadline, "the broker found room on a full disk"
        await asyncio.sleep(0.1)
    await asyncio.to_thread(kafka.start)


async def unknown_outcome(round_: Round) -> None:
    """Freeze the broker between a worker's offsets and its commit for longer than requests wait, so
    that the worker doesn't learn whether it has committed."""
    await _all_ready(round_)
    worker, _ = round_.pick()
    await round_.end(worker)
    point = f"{fault_points.BEFORE_COMMIT}:{round_.rng.randrange(2, 8)}"
    round_.launch(worker, DIALWATCH_TEST_FREEZE_AT=point)
    await round_.frozen(worker, STRIKE_SECONDS)
    round_.servers.kafka.pause()
    worker.resume()
    await asyncio.sleep(23.0)
    round_.servers.kafka.resume()


async def refused_produce(round_: Round) -> None:
    """Let Kafka refuse records of the state, which can't be replaced: workers must stop before
    their offsets pass them, and log why."""
    await _all_ready(round_)
    await _some_time(round_, 0.5, 2.0)
    topic = round_.installation.topics.changelog
    round_.is_watched = False
    # A transaction's marker, of 78 bytes, still fits: without it nobody could begin another one.
    await round_.installation.configure(
        topic, {"cleanup.policy": "compact", "max.message.bytes": "90"}
    )
    for worker in round_.workers:
        code = await round_.gone(worker, STRIKE_SECONDS)
        last = log_of(worker).strip().splitlines()[-1]
        assert code == 1, f"exit {code}: {last}"
        assert "max.message.bytes" in last, last
    for worker in round_.workers:
        round_.launch(worker)  # which sets its topics right
    round_.is_watched = True


async def redis_away(round_: Round) -> None:
    await _all_ready(round_)
    await _some_time(round_, 0.5, 3.0)
    round_.servers.valkey.kill()
    await asyncio.sleep(4.0)
    await asyncio.to_thread(round_.servers.valkey.start)


async def redis_flushed(round_: Round) -> None:
    """Empty Redis in the middle of sends, and kill a worker: for ten minutes the providers
    themselves drop repeats."""
    await _all_ready(round_)
    redis = Redis.from_url(round_.servers.redis_url)
    try:
        for _ in range(2):
            worker, _ = round_.pick()
            await round_.end(worker)
            round_.down.add(worker.directory)
            point = f"{fault_points.DURING_SEND}:{round_.rng.randrange(2, 6)}"
            worker.launch(DIALWATCH_TEST_CRASH_AT=point)
            assert await round_.gone(worker, STRIKE_SECONDS) == -9
            await redis.flushall()
            round_.launch(worker)
            await round_.ready(worker)
    finally:
        await redis.aclose()


async def lose_directory(round_: Round) -> None:
    """Kill a worker and delete its directory, as when a machine is lost."""
    await _all_ready(round_)
    await _some_time(round_, 0.5, 3.0)
    worker, _ = round_.pick()
    round_.kill(worker)
    shutil.rmtree(worker.directory / "data")
    round_.launch(worker)
    await round_.ready(worker)


async def roll_brokers(round_: Round) -> None:
    """Restart each broker of a cluster, so that leaders and coordinators move, and move back."""
    await _all_ready(round_)
    for broker in round_.servers.brokers:  # type: ignore[attr-defined]
        await _some_time(round_, 0.5, 2.0)
        await asyncio.to_thread(broker.stop)
        await _some_time(round_, 0.5, 2.0)
        await asyncio.to_thread(broker.start)


async def kill_brokers(round_: Round) -> None:
    """Kill brokers of a cluster one after the other."""
    await _all_ready(round_)
    for broker in round_.rng.sample(round_.servers.brokers, 2):  # type: ignore[attr-defined]
        await _some_time(round_, 0.5, 2.0)
        broker.kill()
        await _some_time(round_, 3.0, 6.0)
        await asyncio.to_thread(broker.start)


async def upgrade(round_: Round) -> None:
    """Go from 0.1.0 to this version, worker by worker. For a while both versions are in one group,
    and each may die and leave its records to the other."""
    directory = round_.installation.directory / "0.1.0"
    release = await asyncio.to_thread(release_0_1_0, directory)
    await _all_ready(round_)
    for worker in round_.workers:
        await round_.end(worker)
    for worker in round_.workers:
        round_.launch(worker, PYTHONPATH=str(release))
    await _all_ready(round_)
    await _some_time(round_, 1.0, 3.0)
    first, second = round_.pick()
    await round_.end(first)
    round_.launch(first)
    await _all_ready(round_)
    for worker, version in ((second, {"PYTHONPATH": str(release)}), (first, {})):
        await _some_time(round_, 1.0, 3.0)
        round_.kill(worker)
        await _some_time(round_, 0.0, 8.0)
        round_.launch(worker, **version)
        await _all_ready(round_)
    await _some_time(round_, 1.0, 3.0)
    await round_.end(second)
    round_.launch(second)
    await _all_ready(round_)


def release_0_1_0(directory: Path) -> Path:
    """Return 0.1.0's tree, from this repository's history."""
    directory.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        ["git", "archive", RELEASE_0_1_0], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    ) as made:
        subprocess.run(["tar", "--extract"], cwd=directory, stdin=made.stdout, check=True)
    assert made.returncode == 0, f"this clone has no commit {RELEASE_0_1_0}: fetch its history"
    return directory


@dataclass(frozen=True)
class Kind:
    """A fault, and what it needs."""

    strike: Fault
    partitions: int = PARTITIONS
    needs_cluster: bool = False


FAULTS: dict[str, Kind] = {
    "kill-at-random": Kind(kill_at_random),
    **{f"crash-{point}": Kind(crash_at(point)) for point in fault_points.POINTS},
    **{f"freeze-{point}": Kind(freeze_at(point)) for point in fault_points.POINTS},
    "freeze-at-random": Kind(freeze_at_random),
    "wake-in-takeover": Kind(wake_in_takeover),
    "come-and-go": Kind(come_and_go),
    "rolling-restart": Kind(rolling_restart),
    "pause-broker": Kind(pause_broker),
    "kill-broker": Kind(kill_broker),
    **{f"outage-{length_s}": Kind(outage(length_s)) for length_s in (5, 45, 180)},
    "outage-slow-start": Kind(outage(10, is_slow=True)),
    "unknown-outcome": Kind(unknown_outcome),
    "refused-produce": Kind(refused_produce),
    "redis-away": Kind(redis_away),
    "redis-flushed": Kind(redis_flushed),
    "lose-directory": Kind(lose_directory),
    "upgrade": Kind(upgrade),
    "kill-at-random-64": Kind(kill_at_random, partitions=64),
    "roll-brokers": Kind(roll_brokers, needs_cluster=True),
    "kill-brokers": Kind(kill_brokers, needs_cluster=True),
    "outage-2-of-3": Kind(outage_of(2, 20), needs_cluster=True),
    "outage-3-of-3": Kind(outage_of(3, 45), needs_cluster=True),
}
if hasattr(resource, "prlimit"):
    FAULTS["full-disk"] = Kind(full_disk)

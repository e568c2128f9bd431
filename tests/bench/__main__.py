"""`make bench`: this worker beside its peers, on one prefilled topic, on this machine, in one run.

    dialwatch   all rules, exactly once: a real `dialwatch worker`, whole Python process
    aiokafka    a bare consumer that decodes each call's JSON and does nothing: the ceiling
    tuned       the same with what the worker's own reading does: whole record batches, typed
                decoding, no garbage collector
    stock Faust an agent per record that counts the account run alone, a table in memory

CPU is what the process used (user and system) from its first to its last call, by its own
counters; the rate is calls by wall clock in the same span. The peers read the same records, made by
`load.py` or read from a file of `topic<TAB>key<TAB>value` lines (`--records`). `--beside TREE`: and
another release, from its tree (`git archive RELEASE | tar --extract --directory TREE`).

With `--messages` instead: what a notification costs once it is noticed; see `messages.py`.
With `--scaling` instead: this worker beside the ceiling, from few to many accounts, and how fast a
successor restores that state.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console
from rich.table import Table

from app.local.dialer import Dialer, Event
from app.local.stack import Stack
from app.local.worker import WorkerProcess
from streams.kafka import fetching
from streams.records import Call
from streams.topics import ContractTopic
from tests.bench.load import MIXES, KeyAndValue, Mix, account_records, call_records
from tests.installation import Installation

LATENCY_RATE = 2_000
LATENCY_SECONDS = 15
CEILING = "aiokafka, decoding only"
PARTITIONS = 8
_LOOK_EVERY_SECONDS = 0.1
# (accounts, calls): a million accounts, three calls each, nearly every one another account's.
SCALES = ((1, 600_000), (10_000, 1_000_000), (100_000, 1_000_000), (1_000_000, 3_000_000))


class Measured(NamedTuple):
    """One subject's run."""

    name: str
    calls: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    changelog_mb: float = 0.0


class Usage(NamedTuple):
    cpu_seconds: float
    peak_mb: float


def usage_of(pid: int) -> Usage:
    """Read a process's counters (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{pid}/status").read_text()
    peak_kb = int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), peak_kb / 1024)


def placed(records: Iterable[KeyAndValue], topic: ContractTopic) -> list[Event]:
    """Return records with the partitions that a dialer's producer puts them into."""
    dialer = Dialer(seed=1, calls=1, start=datetime.now(UTC), partitions=PARTITIONS)
    return [Event(topic, key, value, dialer.partition_of(key)) for key, value in records]


def read_records(file: Path) -> tuple[list[KeyAndValue], list[KeyAndValue]]:
    """Return accounts and calls of a file of `topic<TAB>key<TAB>value` lines."""
    found: dict[bytes, list[KeyAndValue]] = {b"accounts": [], b"call-records": []}
    with file.open("rb") as lines:
        for line in lines:
            topic, key, value = line.rstrip(b"\n").split(b"\t", 2)
            found[topic].append((key, value))
    return found[b"accounts"], found[b"call-records"]


async def prefill(brokers: str, topic: str, events: list[Event]) -> None:
    """Publish everything in order, as a dialer in a hurry does."""
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, linger_ms=20, max_batch_size=1 << 17, compression_type="lz4"
    )
    await producer.start()
    try:
        for number, event in enumerate(events):
            await producer.send(topic, event.value, key=event.key, partition=event.partition)
            if number % 50_000 == 0:
                await producer.flush()
        await producer.flush()
    finally:
        await producer.stop()


def run_dialwatch(
    installation: Installation, count: int, accounts: int, tree: Path | None = None
) -> Measured:
    """Start a worker on the prefilled topics; from the first call after all records of accounts
    (other partitions may get to their calls earlier) to the last committed one. The group's offsets
    say when that is: each answer to a look at `/metrics` is work of the worker's too.

    `tree`: of another release, whose worker it is to be.
    """
    name = "dialwatch" if tree is None else f"dialwatch of {tree.name}"
    other = {} if tree is None else {"PYTHONPATH": str(tree.absolute())}
    worker = installation.worker(is_started=False, **other)
    worker.start()
    pid, already = worker.pid or 0, 0
    while not already or records_of(worker, installation.topics.accounts) < accounts:
        time.sleep(_LOOK_EVERY_SECONDS)
        already = records_of(worker, installation.topics.calls)
    began, cpu_before = time.monotonic(), usage_of(pid).cpu_seconds
    asyncio.run(wait_committed(installation, count))
    seconds, usage = time.monotonic() - began, usage_of(pid)
    worker.stop()
    changelog = asyncio.run(log_bytes(installation))
    done = count - already
    return Measured(name, done, seconds, usage.cpu_seconds - cpu_before, usage.peak_mb,
                    changelog / 1e6)  # fmt: skip


def records_of(worker: WorkerProcess, topic: str) -> int:
    wanted = f'dialwatch_records_total{{topic="{topic}"}}'
    for line in worker.get("/metrics")[1].splitlines():
        if line.startswith(wanted):
            return int(float(line.rpartition(" ")[2]))
    return 0


async def wait_committed(installation: Installation, count: int) -> None:
    """Until the group's offsets are past every call."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=installation.brokers, group_id=installation.name, enable_auto_commit=False
    )
    await consumer.start()
    try:
        topic = installation.topics.calls
        tps = [TopicPartition(topic, n) for n in range(installation.topics.partitions)]
        while True:
            offsets = [await consumer.committed(tp) or 0 for tp in tps]
            if sum(offsets) >= count:
                return
            await asyncio.sleep(0.1)
    finally:
        await consumer.stop()


async def log_bytes(installation: Installation) -> int:
    """How many bytes of keys and values the worker wrote into its changelog."""
    topic = installation.topics.changelog
    consumer = AIOKafkaConsumer(
        bootstrap_servers=installation.brokers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, n) for n in range(installation.topics.partitions)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        total = 0
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                total += sum(len(one.key or b"") + len(one.value or b"") for one in records)
            if all([await consumer.position(tp) >= ends[tp] for tp in tps]):
                return total
    finally:
        await consumer.stop()


def restored(installation: Installation) -> str:
    """Start a worker on the state that stands and return what it says of restoring it."""
    worker = installation.worker()
    said = [line for line in worker.log.read_text().splitlines() if " restored " in line]
    worker.stop()
    return said[-1].partition("took over ")[2]


def run_peer(name: str, brokers: str, topic: str, count: int) -> Measured:
    """Run a peer in a process of its own; it prints what it measured."""
    answered = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--peer", name, brokers, topic, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=600,
    )
    return Measured(**json.loads(answered.stdout.splitlines()[-1]))


async def peer_aiokafka(brokers: str, topic: str, count: int) -> Measured:
    """Read and decode, as aiokafka comes."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    return await _read_and_decode(CEILING, brokers, topic, count, decode)


async def peer_tuned(brokers: str, topic: str, count: int) -> Measured:
    """Read whole record batches and decode into the worker's own type."""
    fetching.install()
    fetching.hand_over(1 << 20)
    gc.freeze()
    gc.set_threshold(200_000)
    decode = msgspec.json.Decoder(Call).decode
    return await _read_and_decode("the same, tuned", brokers, topic, count, decode)


async def _read_and_decode(
    name: str, brokers: str, topic: str, count: int, decode: Callable[[bytes], object]
) -> Measured:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    seen, began, before = 0, 0.0, 0.0
    try:
        while seen < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                if not began:
                    began, before = time.monotonic(), time.process_time()
                for record in records:
                    decode(record.value)
                seen += len(records)
    finally:
        seconds, cpu = time.monotonic() - began, time.process_time() - before
        await consumer.stop()
    return Measured(name, seen, seconds, cpu, _own_peak_mb())


async def peer_faust(brokers: str, topic: str, count: int) -> Measured:
    """Stock Faust, one agent, a record at a time, the account run alone."""
    import faust  # noqa: PLC0415 (only here)

    app = faust.App(
        f"bench-faust-{time.time_ns()}",
        broker=[f"kafka://{one}" for one in brokers.split(",")],
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        datadir=tempfile.mkdtemp(),
    )
    runs = app.Table("runs", default=int, partitions=8)
    source = app.topic(topic, value_serializer="raw", key_serializer="raw")
    state = {"seen": 0, "began": 0.0, "cpu": 0.0}
    finished = asyncio.Event()

    @app.agent(source)
    async def count_runs(stream: Any) -> None:
        async for event in stream.events():
            if not state["began"]:
                state["began"], state["cpu"] = time.monotonic(), time.process_time()
            call = json.loads(event.value)
            account = call["account_id"]
            if call["result"] == "F":
                run = runs[account] + 1
                runs[account] = 0 if run >= 100 else run
            else:
                runs[account] = 0
            state["seen"] += 1
            if state["seen"] >= count:
                finished.set()

    await app.start()
    await finished.wait()
    seconds, cpu = time.monotonic() - state["began"], time.process_time() - state["cpu"]
    measured = Measured("stock Faust, account run", count, seconds, cpu, _own_peak_mb())
    print(json.dumps(measured._asdict()), flush=True)
    os._exit(0)  # stopping it takes longer than the measurement


def _own_peak_mb() -> float:
    # Not getrusage: its maximum is that of the process that started this one, where it was larger.
    return usage_of(os.getpid()).peak_mb


async def measure_latency(installation: Installation, *, lines: bool) -> list[float]:
    """Publish at a steady rate and time alerts from publishing to reading them, committed.

    With a run length of 100, every hundredth call of an account (or line) in a row raises one.
    """
    topics, brokers = installation.topics, installation.brokers
    dialer = Dialer(seed=1, calls=1, start=datetime.now(UTC), partitions=topics.partitions)
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=0)
    consumer = AIOKafkaConsumer(
        topics.notifications,
        bootstrap_servers=brokers,
        isolation_level="read_committed",
        auto_offset_reset="latest",
        fetch_max_wait_ms=20,
    )
    await producer.start()
    await consumer.start()
    await consumer.seek_to_end()
    published: dict[str, float] = {}
    latencies: list[float] = []
    tag = f"{'l' if lines else 'a'}{time.time_ns()}"

    async def read() -> None:
        async for record in consumer:
            said = json.loads(record.value)
            at = published.get(said["cause"].get("call_id", ""))
            if at is not None and said["channel"] == "inbox":
                latencies.append(time.monotonic() - at)

    reading = asyncio.create_task(read())
    began = time.monotonic()
    for number in range(LATENCY_RATE * LATENCY_SECONDS):
        ahead = began + number / LATENCY_RATE - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        account = f"lat-{number % 50}"
        call = {
            "call_id": f"{tag}-{number}",
            "account_id": account,
            "line_id": f"{tag}-{number % 50}",
            "result": "W" if lines else "F",
            "phone": "13700000000",
            "submitted_at": f"2026-11-24T10:00:{number % 50:02d}+08:00",
            "batch_size": 10_000_000,
            "batch_index": number if lines else 5_000_000 + number,
            "ended_at": "2026-11-24T10:00:00+08:00",
        }
        key = account.encode()
        published[call["call_id"]] = time.monotonic()
        await producer.send(
            topics.calls, json.dumps(call).encode(), key=key, partition=dialer.partition_of(key)
        )
    await producer.flush()
    await asyncio.sleep(2)
    reading.cancel()
    await producer.stop()
    await consumer.stop()
    return sorted(latencies)


def show(title: str, results: list[Measured], latencies: dict[str, list[float]]) -> None:
    """Print one load's table. The factor is against the mean of the ceilings of the run."""
    ceilings = [one.cpu_seconds / one.calls for one in results if one.name == CEILING]
    ceiling = statistics.mean(ceilings) if ceilings else None
    table = Table("", "calls/s", "CPU s / M calls", "× ceiling", "peak MiB",
                  "changelog MB / M calls", title=title)  # fmt: skip
    for one in results:
        per_million = 1e6 / one.calls
        table.add_row(
            one.name,
            f"{one.calls / one.seconds:,.0f}",
            f"{one.cpu_seconds * per_million:.2f}",
            f"{one.cpu_seconds / one.calls / ceiling:.2f}" if ceiling else "–",
            f"{one.peak_mb:.0f}",
            f"{one.changelog_mb * per_million:.0f}" if one.changelog_mb else "–",
        )
    console = Console(width=120)
    console.print(table)
    for name, seen in latencies.items():
        p50, p99 = statistics.median(seen), seen[int(len(seen) * 0.99)]
        console.print(
            f"{name} alerts at {LATENCY_RATE} calls/s, read committed: "
            f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms ({len(seen)} alerts)"
        )


class Load(NamedTuple):
    """Records to measure with."""

    title: str
    accounts: list[Event]
    calls: list[Event]


def made_load(mix: Mix, calls: int, accounts: int) -> Load:
    return Load(
        f"{mix}, {accounts:,} accounts, {calls:,} calls",
        placed(account_records(accounts), ContractTopic.ACCOUNTS),
        placed(call_records(calls, accounts, mix), ContractTopic.CALL_RECORDS),
    )


def read_load(file: Path) -> Load:
    accounts, calls = read_records(file)
    return Load(
        f"{file.name}, {len(accounts):,} accounts, {len(calls):,} calls",
        placed(accounts, ContractTopic.ACCOUNTS),
        placed(calls, ContractTopic.CALL_RECORDS),
    )


def installed(stack: Stack, directory: Path, load: Load) -> Installation:
    """Return a fresh installation whose topics hold the load."""
    made = Installation(stack.bootstrap_servers, stack.redis_url, directory)
    made.variables["DIALWATCH_PARTITIONS"] = str(PARTITIONS)
    asyncio.run(made.create_topics())
    asyncio.run(prefill(stack.bootstrap_servers, made.topics.accounts, load.accounts))
    asyncio.run(prefill(stack.bootstrap_servers, made.topics.calls, load.calls))
    return made


def compare(stack: Stack, directory: Path, load: Load, given: argparse.Namespace) -> None:
    """Measure the worker and its peers on one load, round by round, and print the table."""
    results, latencies = [], {}
    for number in range(given.rounds):
        if given.beside:
            before = installed(stack, directory / f"{load.title}-{number}-beside", load)
            results.append(run_dialwatch(before, len(load.calls), len(load.accounts), given.beside))
            before.close()
        made = installed(stack, directory / f"{load.title}-{number}", load)
        results.append(run_dialwatch(made, len(load.calls), len(load.accounts)))
        if not given.no_peers:
            arguments = (stack.bootstrap_servers, made.topics.calls)
            results.append(run_peer("aiokafka", *arguments, len(load.calls)))
            results.append(run_peer("tuned", *arguments, len(load.calls)))
            if number == 0 and given.faust_calls:
                results.append(run_peer("faust", *arguments, given.faust_calls))
        if number == 0 and not given.no_latency:
            made.worker()
            for name, lines in (("account", False), ("line", True)):
                latencies[name] = asyncio.run(measure_latency(made, lines=lines))
        made.close()
    show(load.title, results, latencies)


def scale(mix: Mix, scales: Iterable[tuple[int, int]]) -> None:
    """Measure the worker beside the ceiling from few to many accounts; its memory is part of it."""
    table = Table("accounts", "calls", "calls/s", "CPU s / M calls", "× ceiling", "peak MiB",
                  "restored", title=mix)  # fmt: skip
    for accounts, calls in scales:
        with tempfile.TemporaryDirectory() as directory, Stack(heap_mb=768) as stack:
            made = installed(stack, Path(directory), made_load(mix, calls, accounts))
            one = run_dialwatch(made, calls, accounts)
            ceiling = run_peer("aiokafka", stack.bootstrap_servers, made.topics.calls, calls)
            factor = one.cpu_seconds / one.calls / (ceiling.cpu_seconds / ceiling.calls)
            table.add_row(
                f"{accounts:,}",
                f"{calls:,}",
                f"{one.calls / one.seconds:,.0f}",
                f"{one.cpu_seconds * 1e6 / one.calls:.2f}",
                f"{factor:.2f}",
                f"{one.peak_mb:.0f}",
                restored(made),
            )
            made.close()
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--mix", choices=MIXES, action="append", help="again for another")
    parser.add_argument("--records", type=Path, help="measure with these instead")
    parser.add_argument("--faust-calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--beside", type=Path, help="the tree of another release: measured too")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--messages", action="store_true", help="what a notification costs")
    parser.add_argument("--inbox-messages", type=int, default=100_000)
    parser.add_argument("--wechat-messages", type=int, default=10_000)
    parser.add_argument("--announced", type=int, default=100_000, help="accounts")
    parser.add_argument("--peer", nargs=4, metavar=("NAME", "BROKERS", "TOPIC", "COUNT"))
    given = parser.parse_args()
    # New topics find their leaders while the first records wait: aiokafka says so at length.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if given.peer:
        name, brokers, topic, count = given.peer
        peer = {"aiokafka": peer_aiokafka, "tuned": peer_tuned, "faust": peer_faust}[name]
        print(json.dumps(asyncio.run(peer(brokers, topic, int(count)))._asdict()))
        return
    if given.messages:
        from tests.bench import messages  # noqa: PLC0415 (it looks back here)

        messages.main(given)
        return
    mixes: tuple[Mix, ...] = tuple(given.mix or MIXES)
    if given.scaling:
        for mix in mixes:
            scale(mix, SCALES)
        return
    with tempfile.TemporaryDirectory() as directory, Stack(heap_mb=768) as stack:
        if given.records:
            compare(stack, Path(directory), read_load(given.records), given)
            return
        for mix in mixes:
            compare(stack, Path(directory), made_load(mix, given.calls, given.accounts), given)
            given.faust_calls, given.no_latency = 0, True  # neither looks at the mix


if __name__ == "__main__":
    main()

"""The console's figures: deliveries indexed a second, queries, memory, ready after kill -9.

Run by `make bench-console ARGS="--deliveries 10000000 --accounts 1000000"`. On a Kafka of its own
it writes deliveries, each with its command if asked, and a changelog of accounts; then it starts a
console and looks at it from outside. Figures are of this machine and whatever else it does.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from app.kafka.topic_setup import create_topics
from app.local.console import ConsoleProcess
from app.local.kafka import Kafka
from app.local.service import HOST
from app.settings import load_settings
from streams.topics import Topics, partition_of
from tables.balances import Balance
from tables.batches import Batch
from tables.customers import Customer
from tables.runs import Run
from tables.store import CUSTOMERS, TALLIES
from tables.tallies import Tally

SCENARIOS = ("interested_customer", "batch_completed", "unreachable_run", "low_balance")
TITLES = ("A类意向客户", "任务完成", "连续未接通警报", "余额不足")
CHANNELS = ("inbox", "wechat", "sms")
DAY = 86_400.0


def main() -> None:
    """Measure and print, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=200_000)
    parser.add_argument("--commands", type=int, default=20_000, help="of the newest deliveries")
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        kafka = Kafka(Path(directory) / "kafka")
        running.callback(kafka.kill)
        kafka.start()
        settings = load_settings(kafka_bootstrap_servers=kafka.bootstrap_servers)
        asyncio.run(create_topics(settings))
        begun = time.monotonic()
        asyncio.run(_fill(settings.topics, kafka.bootstrap_servers, given))
        print(f"written in {time.monotonic() - begun:,.0f} s", flush=True)
        console = ConsoleProcess(
            Path(directory) / "console",
            {"DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
             "DIALWATCH_REDIS_URL": "redis://127.0.0.1:1/0"},
        )  # fmt: skip
        running.callback(console.kill)
        _index(console, given.deliveries, settings.topics)
        _query(console, given.queries, given.accounts)
        _memory(console)
        console.kill()
        begun = time.monotonic()
        console.start()
        print(f"ready after kill -9: {time.monotonic() - begun:.1f} s", flush=True)


def _index(console: ConsoleProcess, deliveries: int, topics: Topics) -> None:
    """Start it on the full topics, and look how fast the deliveries are taken in."""
    console.start_seconds = 7200.0
    begun = time.monotonic()
    console.launch()
    first: tuple[float, float, float] | None = None
    highest = 0
    while True:
        time.sleep(0.5)
        try:
            _, metrics = console.get("/metrics")
            is_ready = console.is_serving()
        except OSError:
            continue
        highest = max(highest, _resident_kib(console))
        done = _value(metrics, f'dialwatch_console_records_total{{topic="{topics.deliveries}"}}')
        now = time.monotonic()
        if first is None and done:
            first = now, done, _processor_s(console)
        if first is not None and done >= deliveries:
            break
    rate = (done - first[1]) / max(now - first[0], 0.001)
    # On a machine that does other things too, this is the one that says something.
    cost = (done - first[1]) / max(_processor_s(console) - first[2], 0.001)
    print(
        f"deliveries indexed: {rate:,.0f} a second, {cost:,.0f} for each second of a processor "
        f"({done:,.0f} in all)",
        flush=True,
    )
    while not is_ready:
        time.sleep(0.5)
        is_ready = console.is_serving()
        highest = max(highest, _resident_kib(console))
    print(f"built in {time.monotonic() - begun:,.0f} s, at most {highest // 1024} MiB", flush=True)
    files = sum(file.stat().st_size for file in (console.directory / "index").iterdir())
    print(f"index: {files / 1e6:,.0f} MB", flush=True)


def _query(console: ConsoleProcess, count: int, accounts: int) -> None:
    """Ask as people do, one after the other, each question with other values."""
    rng = random.Random(1)
    took: dict[str, list[float]] = {}
    before = ""
    for _ in range(count):
        account = f"account-{rng.randrange(accounts):07d}"
        hours = rng.randrange(1, 24)
        paths = {
            "newest": "/api/deliveries",
            "next page": f"/api/deliveries?before={before}",
            "account": f"/api/deliveries?account={account}",
            "status": f"/api/deliveries?status={rng.choice(['failed', 'skipped', 'sent'])}",
            "three filters, a range": f"/api/deliveries?channel={rng.choice(CHANNELS)}"
            f"&scenario={rng.choice(SCENARIOS)}&status=failed&since=-{hours}h&until=-{hours - 1}h",
            "text of an error": "/api/deliveries?q=timed",
            "text of a title": "/api/deliveries?q=%E4%BB%BB%E5%8A%A1",
            "an id's beginning": f"/api/deliveries?q={rng.getrandbits(32):08x}",
            "text that isn't there": "/api/deliveries?q=nothing-like-it",
            "one account": f"/api/accounts/{account}",
            "runs": "/api/runs?near",
            "batches": "/api/batches?open",
        }
        for name, path in paths.items():
            if name == "next page" and not before:
                continue
            begun = time.perf_counter()
            body = _get(console, path)
            took.setdefault(name, []).append(time.perf_counter() - begun)
            if name == "newest":
                before = body["next"] or ""
    for name, seconds in took.items():
        print(f"query, {name}: p50 {_ms(seconds, 0.5)}, p95 {_ms(seconds, 0.95)}", flush=True)
    every = [one for seconds in took.values() for one in seconds]
    print(f"query, all: p50 {_ms(every, 0.5)}, p95 {_ms(every, 0.95)}", flush=True)


def _memory(console: ConsoleProcess) -> None:
    print(f"memory after the queries: {_resident_kib(console) // 1024} MiB", flush=True)


def _get(console: ConsoleProcess, path: str) -> Any:
    with urllib.request.urlopen(f"http://{HOST}:{console.port}{path}", timeout=60) as answer:
        return json.loads(answer.read())


def _value(metrics: str, name: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith(name)]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def _resident_kib(console: ConsoleProcess) -> int:
    status = Path(f"/proc/{console.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def _processor_s(console: ConsoleProcess) -> float:
    fields = Path(f"/proc/{console.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ms(seconds: list[float], share: float) -> str:
    return f"{sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)] * 1000:.0f} ms"


async def _fill(topics: Topics, brokers: str, given: argparse.Namespace) -> None:
    """Write whole batches of records: one future for each of ten million would take an hour."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=0)
    await producer.start()
    try:
        await _write(producer, topics.deliveries, topics.partitions, _deliveries(given))
        await _write(producer, topics.notifications, topics.partitions, _commands(given))
        await _write(producer, topics.changelog, topics.partitions, _state(given.accounts))
    finally:
        await producer.stop()


async def _write(
    producer: AIOKafkaProducer,
    topic: str,
    partitions: int,
    records: Iterator[tuple[bytes, bytes, bytes]],
) -> None:
    batches = [producer.create_batch() for _ in range(partitions)]
    sent: list[asyncio.Future[Any]] = []
    for placed_by, key, value in records:
        number = partition_of(placed_by, partitions)
        if batches[number].append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batches[number], topic, partition=number))
            batches[number] = producer.create_batch()
            batches[number].append(key=key, value=value, timestamp=None)
        if len(sent) > 500:
            await asyncio.gather(*sent)
            sent.clear()
    for number, batch in enumerate(batches):
        if batch.record_count():
            sent.append(await producer.send_batch(batch, topic, partition=number))
    await asyncio.gather(*sent)


def _deliveries(given: argparse.Namespace) -> Iterator[tuple[bytes, bytes, bytes]]:
    rng = random.Random(2)
    start = datetime.now(UTC) - timedelta(days=1)
    step = DAY / given.deliveries
    for number in range(given.deliveries):
        account = f"account-{rng.randrange(given.accounts):07d}".encode()
        at = (start + timedelta(seconds=number * step)).isoformat()
        dice = rng.random()
        status, more = "sent", ""
        if dice < 0.001:
            status, more = "failed", ',"error":"timed out","error_code":-1'
        elif dice < 0.05:
            status, more = "skipped", ',"error":"no openid"'
        value = (
            f'{{"notification_id":"{_id(number)}","channel":"{CHANNELS[number % 3]}",'
            f'"account_id":"{account.decode()}","scenario":"{SCENARIOS[number % 4]}",'
            f'"status":"{status}","attempts":1,"at":"{at}"{more}}}'
        )
        yield account, account, value.encode()


def _commands(given: argparse.Namespace) -> Iterator[tuple[bytes, bytes, bytes]]:
    for number in range(max(given.deliveries - given.commands, 0), given.deliveries):
        value = {
            "notification_id": _id(number), "scenario": SCENARIOS[number % 4], "account_id": "x",
            "channel": CHANNELS[number % 3], "occurred_at": "2026-11-25T12:00:00+08:00",
            "title": TITLES[number % 4], "content": "…", "page": None, "cause": {},
        }  # fmt: skip
        yield b"x", b"x", json.dumps(value).encode()


def _state(accounts: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    now = time.time_ns() // 1000
    for number in range(accounts):
        account = f"account-{number:07d}".encode()
        customer = Customer(
            "某某科技有限公司", "oAbcdefgh12345678", "13800000000", "AB", 5000, None, None, 0
        )  # fmt: skip
        tally = Tally(
            Run(number % 100, f"call-{number}", now), now - number, Batch(1000, number % 1000, now),
            Balance(10_000),
        )  # fmt: skip
        yield account, b"a" + account, CUSTOMERS.encode(customer)
        yield account, b"c" + account, TALLIES.encode(tally)


def _id(number: int) -> str:
    return f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) & ((1 << 128) - 1):032x}"


if __name__ == "__main__":
    main()

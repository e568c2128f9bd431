"""`python -m tests.bench --messages`: what a notification costs once it is noticed, stage by stage.

Stages in this process are ours alone, over and over; a whole worker is a real one that works off
what stands in `notifications`, by its own counters, with Kafka, Valkey and the stand-in for WeChat
beside it. CPU is of the process measured, so that a busy machine changes it less than the clock;
`1 / CPU` is what one worker can do at most. Redis: of one message, by the server's own count.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from agents.channel import Entry
from agents.dispatch import DispatchAgent
from agents.send import SendAgent
from app.channels.wechat.channel import build_client, build_tokens, build_wechat
from app.http import open_http
from app.ledger import RedisLedger
from app.local.stack import Stack
from app.local.valkey import Valkey
from app.local.worker import WorkerProcess
from app.redis_store import open_redis
from app.sandbox.run import settings_for
from app.settings import Settings, load_settings
from streams.engine.memory import MemoryRecord
from streams.engine.outbox import OutboxRecord
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Output
from streams.records import Account, Call, Delivery, Notification, encode
from streams.times import parse_instant
from streams.topics import ContractTopic, Topics, partition_of
from tables import texts
from tests.bench.__main__ import usage_of
from tests.installation import Installation, Published
from tests.send.long import SandboxProcess

ZONE = ZoneInfo("Asia/Shanghai")
AT = "2019-01-30T15:52:10+08:00"
PARTITIONS = 8
AT_ONCE = 64
ALERTS_A_SECOND = 50
CALM_SECONDS = 20.0
UNLIMITED = {"DIALWATCH_WECHAT_RATE": "100000"}


class Measured(NamedTuple):
    """One stage, per message."""

    stage: str
    cpu_ms: float
    seconds: float
    trips: float | None = None
    """Round trips to Redis."""


async def reads_of(redis: Redis) -> int:
    """Return how often Redis has read from a socket: round trips, because each client waits for
    its answer."""
    return int((await redis.info("stats"))["total_reads_processed"])


def command(number: int, channel: str) -> Notification:
    """Return an alert as the worker notices it."""
    account_id = f"acme-{number}"
    call = Call(f"call-{number}", account_id, "line-1", "A", "13700001234", AT, 100, 1, AT)
    told = texts.interested_customer(call, None, parse_instant(AT), ZONE)
    return next(one for one in told if one.channel == channel)


def measure(stage: str, most: int, work: Callable[[], int]) -> Measured:
    """Repeat until `most` messages went through; `work` returns how many did."""
    began, cpu, done = time.monotonic(), time.process_time(), 0
    while done < most:
        done += work()
    cpu_s, seconds = time.process_time() - cpu, time.monotonic() - began
    return Measured(stage, cpu_s / done * 1000, seconds / done)


async def measure_async(
    stage: str,
    redis: Redis,
    most: int,
    work: Callable[[int], Awaitable[Any]],
    at_once: int = AT_ONCE,
) -> Measured:
    """Do it `most` times, so many at once."""
    numbers: Iterator[int] = iter(range(most))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    before = await reads_of(redis)
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    cpu_s, seconds = time.process_time() - cpu, time.monotonic() - began
    trips = (await reads_of(redis) - before - 1) / most  # one of them asked for this
    return Measured(stage, cpu_s / most * 1000, seconds / most, trips)


# -- stages in this process ---------------------------------------------------------------------


def fold_stages(messages: int) -> list[Measured]:
    """Noticing and dispatch: pure folds."""
    topics = Topics("", "bench", PARTITIONS)
    call = Call("call-1", "acme", "line-1", "A", "13700001234", AT, 100, 1, AT)

    def notice() -> int:
        told = texts.interested_customer(call, None, parse_instant(AT), ZONE)
        return len([encode(one) for one in told])

    agent = DispatchAgent(topics, ZONE)
    tp = TP(topics.notifications, 0)

    def dispatch(channel: str) -> Callable[[], int]:
        records: list[Any] = [
            MemoryRecord(number, 0, f"acme-{number}".encode(), encode(command(number, channel)))
            for number in range(1000)
        ]

        def work() -> int:
            emitted: list[Output] = []
            agent.fold(
                Chunk(tp, records, State(0), emitted.append, lambda: None, parse_instant(AT))
            )
            return len(records)

        return work

    return [
        measure("texts and command", messages, notice),
        measure("dispatch to the inbox (fold)", messages, dispatch("inbox")),
        measure("dispatch to WeChat (fold)", messages, dispatch("wechat")),
    ]


def account(account_id: str) -> Account:
    return Account(account_id, account_id, openid=f"o-{account_id}")


async def sending_stages(settings: Settings, messages: int) -> list[Measured]:
    """Payload, ledger, HTTP, and the whole sender without Kafka."""
    redis = open_redis(settings.redis_url)
    found = []
    async with open_http() as http:
        channel = build_wechat(settings, redis, http)
        client = build_client(settings, http)
        token = await build_tokens(settings, client, redis).get()
        assert isinstance(token, str), token
        ledger = RedisLedger(redis, "bench-ledger")
        commands = [command(number, "wechat") for number in range(messages)]
        told = [account(one.account_id or "") for one in commands]
        bodies = [encode(one) for one in commands]
        delivery = Delivery("n", "wechat", "acme", "interested_customer", "sent", 1, AT, "12345")

        def prepare() -> int:
            for one, whom in zip(commands, told, strict=True):
                channel.prepare(one, whom)
            return messages

        async def ledger_of(number: int) -> None:
            name, claim = f"n{number}", channel.claim(commands[number], b"k", 1, str(number))
            entry = Entry("bench-0-1", attempts=1, life="bench")
            await ledger.write(name, entry, is_first=True)
            entry.deliveries = [delivery]
            await ledger.finish(name, entry, claim)

        async def post(number: int) -> None:
            await client.send_template(token, b'{"touser":"nobody"}')

        found.append(measure("WeChat's message (payload)", messages, prepare))
        found.append(await measure_async("ledger: begin and end", redis, messages, ledger_of))
        found.append(await measure_async("HTTP: one post", redis, messages, post))
        agent = SendAgent(
            channel,
            topic="bench",
            deliveries="deliveries",
            dead_letters="dead-letters",
            ledger=RedisLedger(redis, "bench"),
            lookup=account,
            zone=ZONE,
        )
        ends: list[asyncio.Future[None]] = [
            asyncio.get_running_loop().create_future() for _ in commands
        ]

        def crash(error: Exception) -> None:
            for end in ends:
                if not end.done():
                    end.set_exception(error)

        agent.bind(lambda partition, offset, outputs: ends[offset].set_result(None), crash)
        agent.on_assigned(0)

        async def send(number: int) -> None:
            key = (commands[number].account_id or "").encode()
            agent.take(0, [OutboxRecord(number, key, bodies[number])])
            await ends[number]

        found.append(await measure_async("the sender in all", redis, messages, send))
    await redis.aclose()
    return found


@contextmanager
def stand_in(directory: Path) -> Iterator[dict[str, str]]:
    """A stand-in for WeChat on a core of its own, without quotas; the settings that lead to it."""
    sandbox = SandboxProcess(directory / "sandbox")
    sandbox.start()
    try:
        base = f"http://127.0.0.1:{sandbox.port}/__sandbox"
        httpx.put(f"{base}/limits", json={"daily": 0, "minute": 0}, trust_env=False)
        yield settings_for(sandbox.port) | UNLIMITED
    finally:
        sandbox.kill()


def own_settings(variables: dict[str, str], redis_url: str) -> Settings:
    own = {name.removeprefix("DIALWATCH_").lower(): said for name, said in variables.items()}
    return load_settings(**own, redis_url=redis_url)


# -- a whole worker -----------------------------------------------------------------------------


def run_worker(
    stack: Stack, directory: Path, variables: dict[str, str], channel: str, messages: int
) -> Measured:
    """Work off prefilled commands: from the first hundredth of the deliveries to the last."""
    made = Installation(stack.bootstrap_servers, stack.redis_url, directory)
    made.variables |= {"DIALWATCH_PARTITIONS": str(PARTITIONS)} | variables
    asyncio.run(made.create_topics())
    told = [command(number, channel) for number in range(messages)]
    if channel == "wechat":
        for one in told:
            one.openid = f"o-{one.account_id}"
    asyncio.run(
        made.publish(
            Published(
                ContractTopic.NOTIFICATIONS,
                one.account_id,
                encode(one),
                partition_of((one.account_id or "").encode(), PARTITIONS),
            )
            for one in told
        )
    )
    worker = made.worker(is_started=False)
    worker.start()
    wanted = f'dialwatch_deliveries_total{{channel="{channel}",reason="",status="sent"}}'
    first: tuple[float, float, int, int] | None = None
    while True:
        sent, pid = counted(metrics_of(worker), wanted), worker.pid or 0
        if sent >= messages // 100 and first is None:
            reads = asyncio.run(reads_at(stack.redis_url))
            first = time.monotonic(), usage_of(pid).cpu_seconds, sent, reads
        if sent >= messages and first is not None:
            break
        time.sleep(0.05)
    began, cpu, already, reads = first
    done, seconds = messages - already, time.monotonic() - began
    cpu_s = usage_of(pid).cpu_seconds - cpu
    trips = (asyncio.run(reads_at(stack.redis_url)) - reads) / done
    worker.stop()
    made.close()
    return Measured(f"a whole worker, {channel}", cpu_s / done * 1000, seconds / done, trips)


async def reads_at(redis_url: str) -> int:
    redis = open_redis(redis_url)
    try:
        return await reads_of(redis)
    finally:
        await redis.aclose()


def metrics_of(worker: WorkerProcess) -> str:
    """Return what a worker counts; nothing where it is too busy to say."""
    try:
        return worker.get("/metrics")[1]
    except OSError:
        return ""


def counted(metrics: str, wanted: str) -> int:
    """Return a counter's value."""
    for line in metrics.splitlines():
        if line.startswith(wanted):
            return int(float(line.rpartition(" ")[2]))
    return 0


# -- an announcement ----------------------------------------------------------------------------


class Announced(NamedTuple):
    """An announcement to many, and alerts beside it."""

    seconds: float
    calm: list[float]
    beside: list[float]


def announce(stack: Stack, directory: Path, accounts: int) -> Announced:
    """Tell everybody, while some pay: a recharge is an alert by inbox."""
    made = Installation(stack.bootstrap_servers, stack.redis_url, directory)
    made.variables["DIALWATCH_PARTITIONS"] = str(PARTITIONS)
    asyncio.run(made.create_topics())
    asyncio.run(
        made.publish(
            Published(
                ContractTopic.ACCOUNTS,
                f"acme-{number}",
                {
                    "account_id": f"acme-{number}",
                    "name": "甲",
                    "channels": {"announcement": ["inbox"], "recharge_received": ["inbox"]},
                },
            )
            for number in range(accounts)
        )
    )
    worker = made.worker()
    folded = f'dialwatch_records_total{{topic="{made.topics.accounts}"}}'
    while counted(metrics_of(worker), folded) < accounts:
        time.sleep(0.1)
    found = asyncio.run(_announce(made, accounts))
    worker.stop()
    made.close()
    return found


async def _announce(made: Installation, accounts: int) -> Announced:
    producer = AIOKafkaProducer(bootstrap_servers=made.brokers)
    consumer = AIOKafkaConsumer(
        made.topics.inbox_messages,
        bootstrap_servers=made.brokers,
        isolation_level="read_committed",
        fetch_max_wait_ms=10,
    )
    await producer.start()
    await consumer.start()
    await consumer.seek_to_end()
    published: dict[bytes, float] = {}
    alerts: dict[bytes, float] = {}
    told, last = 0, 0.0

    async def read() -> None:
        nonlocal told, last
        while True:
            for records in (await consumer.getmany(timeout_ms=50)).values():
                now = time.monotonic()
                for record in records:
                    if b'"announcement"' in record.value:
                        told, last = told + 1, now
                    else:
                        said = json.loads(record.value)["cause"]["recharge_id"].encode()
                        alerts[said] = now - published[said]

    async def pay() -> None:
        for number in range(1_000_000):
            await asyncio.sleep(1 / ALERTS_A_SECOND)
            name = f"r{number}"
            published[name.encode()] = time.monotonic()
            said = {
                "recharge_id": name,
                "account_id": f"acme-{number % accounts}",
                "amount": "50.00",
                "balance": "100.00",
                "completed_at": AT,
            }
            await producer.send(
                made.topics.recharges, json.dumps(said).encode(), key=said["account_id"].encode()
            )

    tasks = [asyncio.create_task(read()), asyncio.create_task(pay())]
    await asyncio.sleep(CALM_SECONDS)
    calm = sorted(alerts.values())
    alerts.clear()
    began = time.monotonic()
    said = {
        "announcement_id": "u1",
        "kind": "upgrade",
        "title": "系统升级",
        "content": "今晚零点升级",
        "published_at": AT,
    }
    await producer.send(made.topics.announcements, json.dumps(said).encode(), key=b"u1")
    while told < accounts:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    beside = sorted(alerts.values())
    for task in tasks:
        task.cancel()
    await producer.stop()
    await consumer.stop()
    return Announced(last - began, calm, beside)


# -- all of it ----------------------------------------------------------------------------------


def show(found: list[Measured]) -> None:
    table = Table("stage", "CPU ms / message", "messages/s at most (1 / CPU)", "messages/s here",
                  "Redis round trips", title="the price of a message")  # fmt: skip
    for one in found:
        table.add_row(
            one.stage,
            f"{one.cpu_ms:.4f}",
            f"{1000 / one.cpu_ms:,.0f}" if one.cpu_ms else "–",
            f"{1 / one.seconds:,.0f}",
            "–" if one.trips is None else f"{one.trips:.2f}",
        )
    Console(width=120).print(table)


def p99(seen: list[float]) -> float:
    return seen[int(len(seen) * 0.99)]


def main(given: argparse.Namespace) -> None:
    """Measure everything and print it."""
    found = fold_stages(given.inbox_messages)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        valkey = Valkey(directory / "valkey")
        valkey.start()
        try:
            with stand_in(directory) as variables:
                settings = own_settings(variables, valkey.redis_url)
                found += asyncio.run(sending_stages(settings, given.wechat_messages))
        finally:
            valkey.kill()
        with Stack(heap_mb=768) as stack, stand_in(directory) as variables:
            for channel, messages in (
                ("inbox", given.inbox_messages),
                ("wechat", given.wechat_messages),
            ):
                found.append(run_worker(stack, directory / channel, variables, channel, messages))
            show(found)
            one = announce(stack, directory / "announcement", given.announced)
    print(
        f"an announcement to {given.announced:,} accounts by inbox: {one.seconds:.1f} s; alerts "
        f"calm p50 {statistics.median(one.calm) * 1000:.0f} ms, p99 {p99(one.calm) * 1000:.0f} ms, "
        f"beside it p50 {statistics.median(one.beside) * 1000:.0f} ms, "
        f"p99 {p99(one.beside) * 1000:.0f} ms ({p99(one.beside) / p99(one.calm):.1f} ×)"
    )

"""Many notifications through the faulty stand-in over HTTP: each customer must see each once.

Real sender agents, channel, token, ledger and receipts on a real Valkey: two workers that share
one official account, each with its two agents. Nothing stands for Kafka but a list.

    python -m tests.send.long --notifications 100000
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from agents.send import SendAgent
from app.channels.wechat.channel import build_wechat
from app.http import open_http
from app.ledger import RedisLedger
from app.local.service import Service
from app.local.valkey import Valkey
from app.redis_store import open_redis
from app.sandbox.run import callback_settings, settings_for, usual_callback
from app.settings import Settings, load_settings
from app.web.wechat_callback import add_callback_routes
from streams.engine.outbox import OutboxRecord
from streams.engine.types import Output
from streams.records import Account, Delivery, Notification, encode

FAULTY = {"busy": 0.05, "hang_after_accept": 0.02}
ROTATION_SECONDS = 5.0
WORKERS, PARTITIONS, CUSTOMERS_EACH = 2, 8, 5
MOST_PENDING = 1000


def command(number: int) -> Notification:
    """Return the command of a number. Every fifth is an announcement, which goes in bulk."""
    return Notification(
        notification_id=f"n{number}",
        scenario="announcement" if number % 5 == 4 else "batch_completed",
        account_id=f"a{number // CUSTOMERS_EACH}",
        channel="wechat",
        occurred_at="2019-01-30T15:52:10+08:00",
        title="任务完成",
        content=f"第{number}条",
        page=None,
        cause={},
    )


@dataclass
class Books:
    """What the workers wrote, as Kafka would hold it."""

    deliveries: dict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    dead_letters: int = 0
    finished: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    crashes: list[Exception] = field(default_factory=list)

    def take(self, output: Output) -> None:
        if output.topic == "deliveries":
            self.write_delivery(output.value or b"")
        else:
            self.dead_letters += 1

    def write_delivery(self, value: bytes) -> None:
        delivery = msgspec.json.decode(value, type=Delivery)
        self.deliveries[delivery.notification_id].append(delivery)

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Take what the callback publishes."""
        if topic == "deliveries":
            self.write_delivery(value)


class Worker:
    """One worker's sending half."""

    def __init__(self, settings: Settings, redis: Redis, http: httpx.AsyncClient, books: Books):
        channel = build_wechat(settings, redis, http)
        self.agents = [
            SendAgent(
                channel,
                topic=topic,
                deliveries="deliveries",
                dead_letters="dead-letters",
                ledger=RedisLedger(redis, settings.group),
                lookup=lambda account_id: Account(account_id, account_id, openid=f"o-{account_id}"),
                zone=ZoneInfo("Asia/Shanghai"),
                most_at_once=places,
            )
            for topic, places in (("outbox", 64), ("bulk", 8))
        ]
        for agent in self.agents:
            agent.bind(self._finish_of(agent.topic, books), books.crashes.append)

    @staticmethod
    def _finish_of(topic: str, books: Books) -> Any:
        def finish(partition: int, offset: int, outputs: list[Output]) -> None:
            books.finished[topic, partition, offset] += 1
            for output in outputs:
                books.take(output)
            books.progress.set()

        return finish

    def pending(self) -> int:
        return sum(
            agent.pending(partition) for agent in self.agents for partition in range(PARTITIONS)
        )


async def send_all(
    notifications: int, *, redis_url: str, base_url: str, faults: dict[str, Any], rate: float = 2000
) -> tuple[Books, dict[str, Any], list[dict[str, Any]]]:
    """Send them all; return the books, the stand-in's counts, and what is on the phones."""
    port = int(base_url.rpartition(":")[2])
    given = settings_for(port) | callback_settings() | {"DIALWATCH_WECHAT_RATE": str(rate)}
    own = {name.removeprefix("DIALWATCH_").lower(): value for name, value in given.items()}
    settings = load_settings(**own, redis_url=redis_url)
    books = Books()
    control = f"{base_url}/__sandbox"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as asking, open_http() as http:
        redises = [open_redis(redis_url) for _ in range(WORKERS)]
        await redises[0].flushdb()
        async with _callback(settings, books, redises[0]) as worker_url:
            callback = msgspec.to_builtins(usual_callback(worker_url))
            await asking.put(f"{control}/callback", json=callback)
            await asking.put(f"{control}/faults", json=faults)
            await asking.put(f"{control}/limits", json={"daily": 0})
            rotating = asyncio.create_task(_rotate(asking, control))
            try:
                workers = [Worker(settings, redis, http, books) for redis in redises]
                await _feed(workers, books, notifications)
                await _wait_for_words(asking, control, books, faults, notifications)
            finally:
                rotating.cancel()
        for redis in redises:
            await redis.aclose()
        stats = (await asking.get(f"{control}/stats")).json()
        messages = (await asking.get(f"{control}/messages")).json()["wechat"]
    return books, stats, messages


async def _feed(workers: list[Worker], books: Books, notifications: int) -> None:
    for number in range(notifications):
        wanted = command(number)
        customer = number // CUSTOMERS_EACH
        agents = workers[customer % WORKERS].agents
        agent = agents[wanted.scenario == "announcement"]
        key = (wanted.account_id or "").encode()
        record = OutboxRecord(number, key, encode(wanted))
        agent.take(customer % PARTITIONS, [record])
        while sum(worker.pending() for worker in workers) >= MOST_PENDING:
            books.progress.clear()
            await books.progress.wait()
        if number % 1000 == 999 and sys.stderr.isatty():
            print(f"\r{number + 1}", end="", file=sys.stderr)
    while sum(worker.pending() for worker in workers):
        books.progress.clear()
        await books.progress.wait()


async def _wait_for_words(
    asking: httpx.AsyncClient,
    control: str,
    books: Books,
    faults: dict[str, Any],
    notifications: int,
) -> None:
    """Wait for WeChat's words on messages, where each is to get one and its answer arrived."""
    if faults.get("callback_share", 1.0) < 1.0:
        return
    for _ in range(600):
        if sum(len(told) > 1 for told in books.deliveries.values()) == notifications:
            return
        await asyncio.sleep(0.1)


@asynccontextmanager
async def _callback(settings: Settings, books: Books, redis: Redis) -> AsyncIterator[str]:
    app = web.Application()
    add_callback_routes(
        app, settings=settings, topics=settings.topics, publish=books.publish, redis=redis
    )
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def _rotate(asking: httpx.AsyncClient, control: str) -> None:
    while True:
        await asyncio.sleep(ROTATION_SECONDS)
        await asking.post(f"{control}/rotate-token")


def problems(books: Books, messages: list[dict[str, Any]], notifications: int) -> list[str]:
    """Return what is wrong, one line each."""
    found = []
    phones = Counter((one["openid"], one["client_msg_id"]) for one in messages)
    wanted = {(f"o-{command(number).account_id}", f"n{number}") for number in range(notifications)}
    twice = [key for key, times in phones.items() if times > 1]
    if twice:
        found.append(f"{len(twice)} arrived more than once: {twice[:3]}")
    if wanted - phones.keys():
        found.append(
            f"{len(wanted - phones.keys())} never arrived: {sorted(wanted - phones.keys())[:3]}"
        )
    if phones.keys() - wanted:
        found.append(f"nobody asked for {sorted(phones.keys() - wanted)[:3]}")
    ends = Counter(
        tuple(sorted(one.status for one in books.deliveries[f"n{number}"]))
        for number in range(notifications)
    )
    if set(ends) - {("sent",), ("delivered", "sent")}:
        found.append(f"ends: {dict(ends)}")
    if books.dead_letters or set(books.finished.values()) != {1}:
        found.append(
            f"{books.dead_letters} dead letters, finished {Counter(books.finished.values())}"
        )
    orders: dict[str, list[int]] = defaultdict(list)
    for one in messages:
        number = int(one["client_msg_id"][1:])
        if command(number).scenario != "announcement":
            orders[one["openid"]].append(number)
    unordered = [openid for openid, order in orders.items() if order != sorted(order)]
    if unordered:
        found.append(f"out of order at {unordered[:3]}")
    return found


class SandboxProcess(Service):
    """`dialwatch sandbox` on a core of its own."""

    name = "Sandbox"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "app.cli", "sandbox", "--port", str(self.port)]

    def is_serving(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/__sandbox/stats").status_code == 200
        except httpx.HTTPError:
            return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notifications", type=int, default=100_000)
    parser.add_argument("--callbacks", action="store_true", help="with WeChat's word on each")
    wanted = parser.parse_args()
    faults = FAULTY | ({} if wanted.callbacks else {"callback_share": 0.0})
    with tempfile.TemporaryDirectory() as directory:
        valkey = Valkey(Path(directory) / "valkey")
        sandbox = SandboxProcess(Path(directory) / "sandbox")
        valkey.start()
        sandbox.start()
        try:
            began = time.monotonic()
            books, stats, messages = asyncio.run(
                send_all(
                    wanted.notifications,
                    redis_url=valkey.redis_url,
                    base_url=f"http://127.0.0.1:{sandbox.port}",
                    faults=faults,
                )
            )
            seconds = time.monotonic() - began
        finally:
            sandbox.kill()
            valkey.kill()
    attempts = Counter(told[0].attempts for told in books.deliveries.values())
    statuses = Counter(one.status for told in books.deliveries.values() for one in told)
    print(json.dumps({"seconds": round(seconds), **stats}))
    print(json.dumps({"statuses": statuses, "attempts": dict(sorted(attempts.items()))}))
    found = problems(books, messages, wanted.notifications)
    print("\n".join(found) or f"each of {len(messages)} arrived exactly once, in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

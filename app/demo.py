"""The whole product on one machine, once: stack, stand-in, worker, dialer, and what came of it.

Longer than other files because it shows: what is done is in `app/local`, `app/sandbox` and the
worker, which runs as its own process like in production.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.errors import CommandError
from app.local.dialer import Dialer, Event
from app.local.run import progress_shown
from app.local.stack import Stack
from app.local.worker import WorkerProcess
from app.sandbox.callbacks import Callback
from app.sandbox.run import running_sandbox
from app.sandbox.server import Sandbox
from app.sandbox.sms import Text
from app.sandbox.wechat import Message
from app.settings import PREFIX, load_settings
from app.topics_admin import create_topics
from streams.records import SCENARIOS
from streams.topics import Source, Topics

ZONE = ZoneInfo("Asia/Shanghai")
SHOWN_OF_EACH = 2
PATIENCE_SECONDS = 120.0
_MOST_UNSENT = 50_000
_FINAL = ("sent", "skipped", "failed")


@dataclass
class Story:
    """What was seen so far."""

    published: int = 0
    folded: int = 0
    first_publish: float = 0.0
    all_folded: float = 0.0
    scenarios: Counter[tuple[str, str]] = field(default_factory=Counter)
    deliveries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    noticed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    inbox: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)

    def is_over(self) -> bool:
        """Has every notification ended, and WeChat said what became of what it took?"""
        sent = self.deliveries["wechat", "sent", ""]
        said = sum(self.deliveries["wechat", later, ""] for later in ("delivered", "undelivered"))
        return bool(self.all_folded) and self.noticed <= self.ended and said >= sent


def run_demo(*, calls: int, seed: int, stay: bool) -> int:
    """Run it; return the exit code: 1 when something promised didn't happen."""
    console = Console(highlight=False)
    # What is set up here for another installation must not leak into this one.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="dialwatch-demo-") as directory:
        os.chdir(directory)
        try:
            return _run(console, Path(directory), calls=calls, seed=seed, stay=stay)
        finally:
            os.chdir(before)


def _run(console: Console, directory: Path, *, calls: int, seed: int, stay: bool) -> int:
    phones = Phones(console)
    with contextlib.ExitStack() as running:
        with progress_shown(console) as progress:
            stack = running.enter_context(Stack(directory / "stack", progress=progress))
        sandbox, environment = running.enter_context(
            running_sandbox(seed=seed, on_arrival=phones.on_arrival)
        )
        environment |= {
            **stack.environment,
            "DIALWATCH_TICK_SECONDS": "0",  # the dialer's day passes faster
            "DIALWATCH_WECHAT_RATE": "500",
        }
        worker = WorkerProcess(directory / "worker", environment | _callback(sandbox))
        sandbox.driver.callback.url = f"{worker.url}/receive/wechat/callback"
        settings = load_settings(kafka_bootstrap_servers=stack.bootstrap_servers)
        asyncio.run(create_topics(settings))
        running.callback(worker.stop)
        worker.start()
        console.print(
            f"Kafka at {stack.bootstrap_servers}, the worker's page at {worker.url}/ , "
            f"the phones at {environment['DIALWATCH_WECHAT_BASE_URL']}/ \n"
        )
        story = asyncio.run(
            _play(console, phones, stack.bootstrap_servers, settings.topics, worker, calls, seed)
        )
        _summarize(console, story, sandbox)
        if stay:
            console.print("Everything stays up. Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1.0)
                    stack.check()
                    worker.check()
        missing = [name for name in SCENARIOS if not any(key[0] == name for key in story.scenarios)]
        for name in missing:
            console.print(f"no {name} was noticed, and the dialer gave reason for one")
        return 1 if missing else 0


def _callback(sandbox: Sandbox) -> dict[str, str]:
    """Set up WeChat's callback in safe mode, with keys of this run."""
    token = secrets.token_hex(16)
    key = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    sandbox.driver.callback = Callback(token=token, encoding_aes_key=key, mode="safe")
    return {
        "DIALWATCH_WECHAT_CALLBACK_TOKEN": token,
        "DIALWATCH_WECHAT_ENCODING_AES_KEY": key,
    }


class Phones:
    """Prints the first messages of each kind as the customer sees them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._shown: Counter[str] = Counter()
        self._lock = threading.Lock()

    def on_arrival(self, message: Message | Text) -> None:
        """Called in the stand-in's thread."""
        if isinstance(message, Text):
            self._show(f"SMS to {message.phone}", message.text[:16], [message.text])
            return
        lines = list(message.data.values())
        if message.miniprogram:
            lines.append(f"→ {message.miniprogram.get('pagepath', '')}")
        self._show(f"WeChat to {message.openid}", message.data.get("keyword2", ""), lines)

    def on_inbox(self, said: dict[str, str]) -> None:
        """An inbox message was published."""
        lines = [said["title"], said["content"]]
        self._show(f"Inbox of {said['account_id']}", said["scenario"], lines)

    def _show(self, head: str, kind: str, lines: list[str]) -> None:
        kind = f"{head.split(maxsplit=1)[0]} {kind}"
        with self._lock:
            self._shown[kind] += 1
            if self._shown[kind] > SHOWN_OF_EACH:
                return
            self.console.print(f"[bold]{head}[/bold]")
            for line in lines:
                self.console.print(f"  {line}", markup=False, soft_wrap=True)


async def _play(
    console: Console,
    phones: Phones,
    brokers: str,
    topics: Topics,
    worker: WorkerProcess,
    calls: int,
    seed: int,
) -> Story:
    """Publish the dialer's day and watch until every notification has ended somehow."""
    story = Story()
    start = datetime.now(ZONE).replace(hour=10, minute=0, second=0, microsecond=0)
    dialer = Dialer(
        seed=seed, calls=calls, start=start - timedelta(days=1), partitions=topics.partitions
    )
    watching = asyncio.create_task(_watch(brokers, topics, story, phones))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        dialed = bars.add_task("calls dialed", total=calls)
        folded = bars.add_task("calls watched", total=calls)
        ended = bars.add_task("messages", total=None)
        try:
            publishing = asyncio.create_task(_publish(brokers, topics, dialer, story))
            deadline = time.monotonic() + PATIENCE_SECONDS + calls / 1000
            while not (publishing.done() and story.is_over()):
                await asyncio.sleep(0.2)
                worker.check()
                if publishing.done():
                    publishing.result()
                if watching.done():
                    watching.result()
                _look(worker, topics, story, is_all=publishing.done())
                bars.update(dialed, completed=min(story.published, calls))
                bars.update(folded, completed=min(story.folded, calls))
                bars.update(ended, completed=len(story.ended), total=len(story.noticed) or None)
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"{len(story.noticed - story.ended)} notifications have not ended, or "
                        f"WeChat's word on some is missing; the worker's log: {worker.log}"
                    )
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    return story


async def _publish(brokers: str, topics: Topics, dialer: Dialer, story: Story) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=5, max_batch_size=1 << 18)
    await producer.start()
    places: dict[bytes, int] = {}
    pending: set[asyncio.Future[object]] = set()

    async def send(event: Event) -> None:
        partition = event.partition
        if partition is None and event.key is not None:
            partition = places.setdefault(event.key, dialer.partition_of(event.key))
        future = await producer.send(
            topics.name(event.source), event.value, key=event.key, partition=partition
        )
        pending.add(future)
        future.add_done_callback(pending.discard)

    try:
        for event in dialer.accounts():
            await send(event)
        await producer.flush()
        story.first_publish = time.monotonic()
        for event in dialer.events():
            await send(event)
            story.published += event.source is Source.CALL_RECORDS
            if len(pending) > _MOST_UNSENT:
                await producer.flush()
        await producer.flush()
    finally:
        await producer.stop()


async def _watch(brokers: str, topics: Topics, story: Story, phones: Phones) -> None:
    """Read what comes out, as other systems do."""
    wanted = (
        topics.notifications, topics.inbox_messages, topics.deliveries, topics.dead_letters
    )  # fmt: skip
    consumer = AIOKafkaConsumer(
        *wanted,
        bootstrap_servers=brokers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        async for record in consumer:
            if record.topic == topics.dead_letters:
                reason = dict(record.headers)["dialwatch.reason"].decode()
                story.dead_letters[reason.partition(":")[0]] += 1
                continue
            said = json.loads(record.value)
            if record.topic == topics.inbox_messages:
                story.inbox += 1
                phones.on_inbox(said)
            elif record.topic == topics.notifications:
                story.noticed.add(said["notification_id"])
                story.scenarios[said["scenario"], said["channel"]] += 1
            else:
                reason = said.get("error", "") if said["status"] in {"skipped", "failed"} else ""
                story.deliveries[said["channel"], said["status"], reason] += 1
                if said["status"] in _FINAL:
                    story.ended.add(said["notification_id"])
    finally:
        await consumer.stop()


def _look(worker: WorkerProcess, topics: Topics, story: Story, *, is_all: bool) -> None:
    """Ask the worker how many calls it has folded."""
    with contextlib.suppress(OSError):
        for name, value in _samples(worker.get("/metrics")[1]):
            if name == f'dialwatch_records_total{{topic="{topics.calls}"}}':
                story.folded = int(value)
    if is_all and story.folded >= story.published and not story.all_folded:
        story.all_folded = time.monotonic()


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


def _summarize(console: Console, story: Story, sandbox: Sandbox) -> None:
    seconds = max(story.all_folded - story.first_publish, 0.001)
    console.print(
        f"\n[bold]{story.published:,} calls in {seconds:.1f} s: {story.published / seconds:,.0f} "
        "calls/s[/bold] (published, watched and committed exactly once)"
    )
    noticed = Table("scenario", "inbox", "wechat", "sms", title="Noticed", title_justify="left")
    for scenario in SCENARIOS:
        counts = [story.scenarios[scenario, channel] for channel in ("inbox", "wechat", "sms")]
        noticed.add_row(scenario, *(str(count or "–") for count in counts))
    console.print(noticed)
    became = Table("channel", "status", "why", "messages", title="Deliveries", title_justify="left")
    for (channel, status, reason), count in sorted(story.deliveries.items()):
        became.add_row(channel, status, reason, str(count))
    console.print(became)
    letters = ", ".join(f"{name} {count}" for name, count in sorted(story.dead_letters.items()))
    console.print(
        f"Dead letters by field: {letters or 'none'}. On the phones: "
        f"{len(sandbox.wechat.messages)} WeChat messages, {len(sandbox.gateway.texts)} SMS; "
        f"in the inboxes: {story.inbox}."
    )

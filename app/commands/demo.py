"""`dialwatch demo`: the whole product on one machine, from a simulated dialer to the phones.

Longer than other files because of all that it shows. The parts themselves are in `app/local`,
`app/sandbox` and the worker, which runs as a process of its own as in production.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
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
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.errors import CommandError
from app.kafka.topic_setup import create_topics
from app.local.console import ConsoleProcess
from app.local.dialer import Dialer, Event
from app.local.errors import LocalStackError
from app.local.run import progress_shown
from app.local.stack import Stack
from app.local.worker import WorkerProcess
from app.sandbox.callbacks import Callback
from app.sandbox.run import running_sandbox
from app.sandbox.server import Sandbox
from app.sandbox.sms import Text as Sms
from app.sandbox.wechat import ArrivedMessage
from app.settings import PREFIX, load_settings
from streams.records import SCENARIOS
from streams.topics import ContractTopic, Topics

ZONE = ZoneInfo("Asia/Shanghai")
SHOWN_OF_EACH = 2
PATIENCE_SECONDS = 120.0
QUIET_SECONDS = 1.0
_MOST_UNSENT = 50_000
_COLOURS = {"WeChat": "bold green", "SMS": "bold cyan", "Inbox": "bold blue"}
_FINAL = ("sent", "skipped", "failed")


@dataclass
class Story:
    """What the demo has seen so far."""

    published: int = 0
    folded: int = 0
    first_publish: float = 0.0
    all_folded: float = 0.0
    quiet_since: float | None = None
    """Since when the worker has had nothing left to do, and nothing of it has come; None: it isn't
    so, or nobody knows, or publishing goes on."""
    scenarios: Counter[tuple[str, str]] = field(default_factory=Counter)
    deliveries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    noticed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    inbox: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)

    def is_over(self) -> bool:
        """Has every notification ended, with WeChat's later word for each that it accepted?

        Notifications may still be to come for a moment (a line's calls go through a topic of their
        own), so the worker must have had nothing to do for a while.
        """
        if self.quiet_since is None or time.monotonic() - self.quiet_since < QUIET_SECONDS:
            return False
        sent = self.deliveries["wechat", "sent", ""]
        said = sum(self.deliveries["wechat", later, ""] for later in ("delivered", "undelivered"))
        return self.noticed <= self.ended and said >= sent


def run_demo(*, calls: int, seed: int, stay: bool, shown: int = SHOWN_OF_EACH) -> int:
    """Run the demo; print the first `shown` messages of each kind. Return the exit code: 1 where
    something that the demo promises didn't happen."""
    console = Console(highlight=False)
    # Settings of another installation in this environment must not count here.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it says goodbye as on Ctrl-C
    before = Path.cwd()
    directory = Path(tempfile.mkdtemp(prefix="dialwatch-demo-"))
    os.chdir(directory)
    try:
        code = run_in(directory, console, calls=calls, seed=seed, stay=stay, shown=shown)
    except (CommandError, LocalStackError):
        raise  # its text names a log file in the directory, so the directory stays
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.chdir(before)
    shutil.rmtree(directory, ignore_errors=True)
    return code


def run_in(
    directory: Path, console: Console, *, calls: int, seed: int, stay: bool, shown: int
) -> int:
    """Run the demo with all its files in `directory`, which is kept at the end."""
    phones = Phones(console, shown)
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
        with console.status("Starting the worker"):
            asyncio.run(create_topics(settings))
            running.callback(worker.stop)
            worker.start()
        watcher = ConsoleProcess(directory / "console", environment)
        with console.status("Starting the console"):
            running.callback(watcher.stop)
            watcher.start()
        places = Table.grid(padding=(0, 2))
        places.add_row("Kafka", stack.bootstrap_servers)
        places.add_row("the worker's page", f"{worker.url}/")
        places.add_row("the customers' phones", f"{environment['DIALWATCH_WECHAT_BASE_URL']}/")
        places.add_row("the console", f"{watcher.url}/")
        console.print(places)
        if shown:
            console.print(f"\nThe first {shown} messages of each kind, as customers see them:\n")
        story = asyncio.run(
            _play(console, phones, stack.bootstrap_servers, settings.topics, worker, calls, seed)
        )
        _summarize(console, story, sandbox, calls)
        if stay:
            console.print("\nEverything stays up until Ctrl-C:")
            console.print(places)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1.0)
                    stack.check()
                    worker.check()
                    watcher.check()
            with console.status("Stopping"):
                running.close()
        missing = [name for name in SCENARIOS if not any(key[0] == name for key in story.scenarios)]
        for name in missing:
            console.print(f"no {name} was noticed, and the dialer gave reason for one")
        if not stay:
            console.print(
                "\nWhat was sent, to whom, why and why not stood in the console, "
                f"{watcher.url}/;\nmake run ARGS=--stay keeps everything up to look at it.",
                soft_wrap=True,
            )
        return 1 if missing else 0


def _callback(sandbox: Sandbox) -> dict[str, str]:
    """Set up WeChat's callback in encrypted mode, with new keys. Return the worker's settings."""
    token = secrets.token_hex(16)
    key = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    sandbox.driver.callback = Callback(token=token, encoding_aes_key=key, mode="safe")
    return {
        "DIALWATCH_WECHAT_CALLBACK_TOKEN": token,
        "DIALWATCH_WECHAT_ENCODING_AES_KEY": key,
    }


class Phones:
    """Prints the first messages of each kind as the customer sees them."""

    def __init__(self, console: Console, shown: int) -> None:
        self.console = console
        self._most = shown
        self._shown: Counter[str] = Counter()
        self._lock = threading.Lock()

    def on_arrival(self, message: ArrivedMessage | Sms) -> None:
        """Print a message that reached a phone. Is called in the stand-in's thread."""
        if isinstance(message, Sms):
            self._show(f"SMS to {message.phone}", message.text[:16], [message.text])
            return
        lines = message.text.splitlines()
        if message.miniprogram:
            lines.append(f"→ {message.miniprogram.get('pagepath', '')}")
        self._show(f"WeChat to {message.openid}", message.data.get("keyword2", ""), lines)

    def on_inbox(self, said: dict[str, str]) -> None:
        """Print an inbox message that was published."""
        lines = [said["title"], said["content"]]
        self._show(f"Inbox of {said['account_id']}", said["scenario"], lines)

    def _show(self, head: str, kind: str, lines: list[str]) -> None:
        kind = f"{head.split(maxsplit=1)[0]} {kind}"
        with self._lock:
            self._shown[kind] += 1
            if self._shown[kind] > self._most:
                return
            # In one call, or the progress bars are drawn again after each line.
            message = Text(head, style=_COLOURS[head.split(maxsplit=1)[0]])
            message.append("".join(f"\n  {line}" for line in lines), style="not bold default")
            self.console.print(message, end="\n\n", soft_wrap=True)


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
                await _look(worker, topics, story, is_all=publishing.done())
                bars.update(dialed, completed=min(story.published, calls))
                bars.update(folded, completed=min(story.folded, calls))
                bars.update(ended, completed=len(story.ended), total=len(story.noticed) or None)
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"{len(story.noticed - story.ended)} notifications have not ended, or "
                        f"WeChat's word on some is missing: see the worker's log, {worker.log}"
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
            topics.name(event.topic), event.value, key=event.key, partition=partition
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
            story.published += event.topic is ContractTopic.CALL_RECORDS
            if len(pending) > _MOST_UNSENT:
                await producer.flush()
        await producer.flush()
    finally:
        await producer.stop()


async def _watch(brokers: str, topics: Topics, story: Story, phones: Phones) -> None:
    """Read the topics that other systems read."""
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
            story.quiet_since = None  # more may be on its way to here
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


async def _look(worker: WorkerProcess, topics: Topics, story: Story, *, is_all: bool) -> None:
    """Ask the worker how many calls it has folded, and whether it has anything left to do."""
    try:
        # In a thread: a worker that is slow to answer must not hold up those who read and publish.
        _, text = await asyncio.to_thread(worker.get, "/metrics")
    except OSError:
        story.quiet_since = None  # nobody knows
        return
    left = 0.0
    for name, value in _samples(text):
        if name == f'dialwatch_records_total{{topic="{topics.calls}"}}':
            story.folded = int(value)
        elif name.startswith(("dialwatch_lag_records{", "dialwatch_pending_commands{")):
            left += value
    now = time.monotonic()
    if not is_all or story.folded < story.published:
        return
    story.all_folded = story.all_folded or now
    story.quiet_since = None if left else story.quiet_since or now


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


def _summarize(console: Console, story: Story, sandbox: Sandbox, calls: int) -> None:
    seconds = max(story.all_folded - story.first_publish, 0.001)
    console.print(
        f"\n[bold]{calls:,} calls in {seconds:.1f} s: {calls / seconds:,.0f} calls/s[/bold], from "
        "the first one published to the last one committed.\n"
        f"The dialer published {story.published - calls:,} records more, repeats and rubbish.\n"
    )
    noticed = _table("Noticed", "scenario", "inbox", "wechat", "sms")
    for scenario in SCENARIOS:
        counts = [story.scenarios[scenario, channel] for channel in ("inbox", "wechat", "sms")]
        noticed.add_row(scenario, *(f"{count:,}" if count else "–" for count in counts))
    console.print(noticed)
    became = _table("\nWhat became of them", "channel", "status", "messages", "why")
    for (channel, status, reason), count in sorted(story.deliveries.items()):
        became.add_row(channel, status, f"{count:,}", reason)
    console.print(became)
    letters = ", ".join(f"{name} {count}" for name, count in sorted(story.dead_letters.items()))
    console.print(
        f"\nOn the phones: {len(sandbox.wechat.messages):,} WeChat messages, "
        f"{len(sandbox.gateway.texts):,} SMS; in the inboxes: {story.inbox:,}.\n"
        f"Dead letters by the field that was wrong: {letters or 'none'}."
    )


def _table(title: str, *columns: str) -> Table:
    """Return an empty table with right-aligned numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        is_number = column in {"inbox", "wechat", "sms", "messages"}
        table.add_column(column, justify="right" if is_number else "left")
    return table

"""The wiring: topics → rules → channels, as one worker; and its life from start to exit.

Importing this does nothing.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import faust
import httpx
from redis.asyncio import Redis

from agents.channel import StoreAwayError
from agents.lookup import account_lookup
from agents.register import dispatching, watching
from agents.rules import Rules
from agents.send import MOST_AT_ONCE, SendAgent
from app.channels.sms import build_sms
from app.channels.wechat import build_wechat
from app.data_directory import DataDirectory
from app.errors import CommandError
from app.faust_app import create_app, credentials_for
from app.http import open_http
from app.ledger import RedisLedger
from app.publisher import Publisher
from app.settings import Settings
from app.store import open_redis, store_errors
from app.ticker import publish_ticks
from app.topics_admin import ensure_topics
from app.web.server import WebServer
from app.web.view import WorkerView
from streams.engine import fault_points
from streams.engine.engine import Engine, EngineConfig
from streams.engine.types import TP
from streams.topics import Topics

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_BULK_AT_ONCE = 8
STOP_SECONDS = 12.0
"""For each half of a stop: what is begun, then the group. Together less than 30 s."""

# The engine makes no cycles of garbage; looking for some in a million records costs a third.
_GC_THRESHOLD = 200_000


@dataclass(frozen=True)
class Worker:
    """Everything that runs, wired and not started."""

    settings: Settings
    topics: Topics
    engine: Engine
    app: faust.App
    senders: tuple[SendAgent, ...]
    publisher: Publisher

    def seconds_since_poll(self) -> float | None:
        """Return how long ago the consumer looked for records; None: it hasn't begun."""
        consumer = self.app._consumer
        polled: float | None = getattr(consumer, "last_poll", None)
        return None if polled is None else asyncio.get_running_loop().time() - polled


def create_worker(
    settings: Settings,
    topics: Topics,
    worker_id: str,
    redis: Redis,
    http: httpx.AsyncClient,
    publisher: Publisher,
) -> Worker:
    """Wire one worker: the product on a page."""
    rules = rules_of(settings)
    options = settings.kafka_client_options()
    engine = Engine(
        EngineConfig(
            group=settings.group,
            worker_id=worker_id,
            changelog=topics.changelog,
            output_topics=topics.outputs(),
            session_timeout_s=settings.session_timeout_seconds,
            client_options=options,
        )
    )
    for source in watching(rules, topics):
        engine.add_source(source)
    engine.add_source(dispatching(rules, topics))

    lookup = account_lookup(engine.state_of, topics.partitions)
    ledger = RedisLedger(redis, prefix=settings.group)
    wechat, sms = build_wechat(settings, redis, http), build_sms(settings, http)
    senders = tuple(
        SendAgent(
            channel,
            topic=topic,
            deliveries=topics.deliveries,
            dead_letters=topics.dead_letters,
            ledger=ledger,
            lookup=lookup,
            zone=settings.zone,
            most_at_once=most_at_once,
        )
        for channel, topic, most_at_once in (
            (wechat, topics.wechat_outbox, MOST_AT_ONCE),
            (wechat, topics.wechat_bulk_outbox, MOST_BULK_AT_ONCE),
            (sms, topics.sms_outbox, MOST_AT_ONCE),
            (sms, topics.sms_bulk_outbox, MOST_BULK_AT_ONCE),
        )
    )
    for sender in senders:
        engine.add_outbox(sender)

    app = create_app(
        engine,
        brokers=options["bootstrap_servers"],
        credentials=credentials_for(options),
        datadir=str(settings.datadir),
        session_timeout_s=settings.session_timeout_seconds,
    )
    return Worker(settings, topics, engine, app, senders, publisher)


def rules_of(settings: Settings) -> Rules:
    """Return the numbers that the rules are played by."""
    return Rules(
        zone=settings.zone,
        run_length=settings.run_length,
        run_window_hours=settings.run_window_hours,
        reminder_time=settings.reminder_time,
        expiry_notice_days=settings.expiry_notice_days,
        batch_retention_days=settings.batch_retention_days,
    )


def run_worker(settings: Settings) -> int:
    """Run one worker until SIGTERM or SIGINT; return the exit code.

    Raises CommandError where it can't start, or had to stop.
    """
    _arm_fault_points()
    directory = DataDirectory(settings.datadir)
    try:
        asyncio.run(_run(settings, directory.worker_id()))
    finally:
        directory.close()
    return 0


async def _run(settings: Settings, worker_id: str) -> None:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    view = WorkerView(settings)

    def stop() -> None:
        view.is_stopping = True
        if not end.done():
            log.info("stopping: what is begun is finished and committed")
            end.set_result(None)

    def crash(error: BaseException) -> None:
        if not end.done():
            log.debug("the engine stopped", exc_info=error)
            end.set_exception(CommandError(_reason(error)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with AsyncExitStack() as opened:
        redis, http = open_redis(settings.redis_url), open_http()
        opened.push_async_callback(redis.aclose)
        opened.push_async_callback(http.aclose)
        publisher = Publisher(settings.kafka_client_options())
        opened.push_async_callback(publisher.close)
        web = WebServer(view, publisher, redis)
        await web.start()
        opened.push_async_callback(web.stop)
        for warning in view.warnings():
            log.warning("%s", warning)
        topics = await _unless(end, ensure_topics(settings))
        if topics is None:
            return
        await _unless(end, _say_when_redis_is_away(redis))
        worker = create_worker(settings, topics, worker_id, redis, http, publisher)
        worker.engine.crash = crash
        view.worker = worker
        await _serve(worker, end)


async def _say_when_redis_is_away(redis: Redis) -> None:
    """Only the sender needs Redis, and it waits: what is noticed meanwhile is kept in Kafka."""
    try:
        with store_errors():
            await redis.ping()
    except StoreAwayError as error:
        log.warning(
            "%s: start it, or set DIALWATCH_REDIS_URL; until then no message is sent", error
        )


async def _serve(worker: Worker, end: asyncio.Future[None]) -> None:
    """Start, wait for the end, stop. What fails while stopping can't make it hang."""
    tasks: list[asyncio.Task[None]] = []
    try:
        await _unless(end, worker.engine.connect())
        await _unless(end, worker.app.start())
        tasks = [asyncio.create_task(_watch(worker.app, worker.engine))]
        if worker.settings.tick_seconds:
            tasks.append(asyncio.create_task(_tick(worker)))
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        await end
    finally:
        for task in tasks:
            task.cancel()
        await _within(worker.engine.stop(), "finishing what is begun")
        await _within(worker.app.stop(), "leaving the group")


async def _unless(end: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T | None:
    """Return what the work returns; None when the end comes first. Raises what either does."""
    task = asyncio.create_task(work)
    either: set[asyncio.Future[Any]] = {task, end}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    return end.result()


def _tick(worker: Worker) -> Coroutine[Any, Any, None]:
    topics = worker.topics
    first = TP(topics.ticks, 0)
    return publish_ticks(
        worker.publisher.publish,
        lambda: worker.engine.is_ready and first in worker.engine.assigned,
        topic=topics.ticks,
        partitions=topics.partitions,
        every_s=worker.settings.tick_seconds,
        zone=worker.settings.zone,
    )


async def _watch(app: faust.App, engine: Engine) -> None:
    """Faust keeps what crashed it to itself."""
    await app._crashed.wait()
    engine.crash(app.crash_reason or RuntimeError("Faust's app crashed"))


async def _within(stopping: Awaitable[None], what: str) -> None:
    try:
        await asyncio.wait_for(stopping, STOP_SECONDS)
    except TimeoutError:
        log.warning("%s took longer than %.0f s and was given up", what, STOP_SECONDS)
    except Exception as error:
        log.warning("%s failed: %r", what, error)


def _reason(error: BaseException) -> str:
    """Return one line: what stopped the worker."""
    text = " ".join(str(error).split()) or repr(error)
    is_ours = type(error).__module__.startswith("streams.")
    return text if is_ours else f"{type(error).__name__}: {text}"


def _arm_fault_points() -> None:
    """For fault tests only; see `streams/engine/fault_points.py`."""
    for variable, sent in (
        ("DIALWATCH_TEST_CRASH_AT", signal.SIGKILL),
        ("DIALWATCH_TEST_FREEZE_AT", signal.SIGSTOP),
    ):
        point = os.environ.get(variable)
        if point:
            fault_points.arm(point, sent)

"""A worker's life, from its start to exit 0 or to one line that says what stopped it."""

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import faust
from aiokafka.errors import InconsistentGroupProtocolError, InvalidSessionTimeoutError
from redis.asyncio import Redis

from agents.channel import StoreAwayError
from app.data_directory import DataDirectory
from app.errors import CommandError
from app.http import open_http
from app.kafka.publisher import Publisher
from app.kafka.topic_setup import ensure_topics
from app.main import Worker, create_worker
from app.redis_check import refuse_cluster, refuse_cluster_when_it_answers
from app.redis_store import open_redis
from app.settings import Settings, variable
from app.ticker import publish_ticks
from app.web.server import WebServer
from app.web.view import WorkerView
from streams import tracing
from streams.engine import fault_points
from streams.engine.engine import Engine
from streams.engine.types import TP
from streams.kafka import reconnecting
from streams.kafka.rights import forbidden

log = logging.getLogger(__name__)

T = TypeVar("T")

STOP_SECONDS = 12.0
"""For each half of a stop: what is begun, then the group. Together less than 30 s."""

GIVE_UP_SECONDS = 27.0
"""After a signal the process ends by then, whatever hangs: all that counts is in Kafka."""
_CANCEL_AGAIN_SECONDS = 0.5

# The engine makes no cycles of garbage; looking for some in a million records costs a third.
_GC_THRESHOLD = 200_000


def run_worker(settings: Settings, *, has_traces: bool = False) -> int:
    """Run one worker until SIGTERM or SIGINT; return the exit code. `has_traces`: see
    `app/trace_export.py`.

    Raises CommandError where it can't start, or had to stop.
    """
    fault_points.arm_as(os.environ)
    reconnecting.install()
    directory = DataDirectory(settings.datadir)
    try:
        with _traces() if has_traces else nullcontext():
            asyncio.run(_run(settings, directory.worker_id()))
    finally:
        directory.close()
    return 0


@contextmanager
def _traces() -> Iterator[None]:
    try:
        from app.trace_export import OpenTelemetryTraces  # noqa: PLC0415 (no cost where it is off)
    except ModuleNotFoundError:
        raise CommandError(
            "--traces needs OpenTelemetry: pip install 'dialwatch[tracing]'"
        ) from None
    made = OpenTelemetryTraces()
    tracing.switch(made)
    try:
        yield
    finally:
        tracing.switch(None)
        made.close()


async def _run(settings: Settings, worker_id: str) -> None:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    view = WorkerView(settings)

    def stop() -> None:
        view.is_stopping = True
        if not end.done():
            log.info("stopping: what is begun is finished and committed")
            end.set_result(None)
            _end_process_after(GIVE_UP_SECONDS, 0, "something hangs in the stop")

    def crash(error: BaseException) -> None:
        if not end.done():
            log.debug("the engine stopped", exc_info=error)
            is_told = isinstance(error, CommandError)
            told = error if is_told else CommandError(_reason(error, settings))
            end.set_exception(told)
            _end_process_after(GIVE_UP_SECONDS, 1, str(told))

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
        worker = create_worker(settings, topics, worker_id, redis, http, publisher, crash)
        view.worker = worker
        await _serve(worker, end)


async def _say_when_redis_is_away(redis: Redis) -> None:
    """Only the sender needs Redis, and it waits: what is noticed meanwhile is kept in Kafka."""
    try:
        await refuse_cluster(redis)
    except StoreAwayError as error:
        log.warning(
            "%s: start it, or set DIALWATCH_REDIS_URL; until then no message is sent", error
        )


async def _serve(worker: Worker, end: asyncio.Future[None]) -> None:
    """Start, wait for the end, stop. What fails while stopping can't make it hang."""
    tasks: list[asyncio.Task[None]] = []

    def watch(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda done: _crash_of(done, worker.engine))
        tasks.append(task)

    try:
        await _unless(end, worker.engine.connect())
        await _unless(end, worker.app.start())
        watch(_watch(worker.app, worker.engine))
        watch(worker.engine.watch_for_hanging())
        watch(refuse_cluster_when_it_answers(worker.redis))
        watch(worker.share_holds())
        if worker.settings.tick_seconds:
            watch(_tick(worker))
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        await end
    finally:
        for task in tasks:
            task.cancel()
        await _within(worker.engine.stop(), "finishing what is begun")
        await _within(worker.app.stop(), "leaving the group")


def _crash_of(task: asyncio.Task[None], engine: Engine) -> None:
    """A task's exception would be seen by nobody."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        engine.crash(error)


async def _unless(end: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T | None:
    """Return what the work returns; None when the end comes first. Raises what either does."""
    task = asyncio.create_task(work)
    either: set[asyncio.Future[Any]] = {task, end}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    while not task.done():
        task.cancel()  # once isn't enough: aiokafka's close swallows it
        await asyncio.wait([task], timeout=_CANCEL_AGAIN_SECONDS)
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
    task = asyncio.ensure_future(stopping)
    await asyncio.wait([task], timeout=STOP_SECONDS)
    if not task.done():
        task.cancel()  # which it may swallow, so nobody waits for it
        log.warning("%s took longer than %.0f s and was given up", what, STOP_SECONDS)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s failed: %r", what, error)


def _end_process_after(seconds: float, code: int, last_words: str) -> None:
    """End it although something hangs: a task that can't be cancelled, or a thread."""

    def end() -> None:
        log.warning("%s", last_words)
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _reason(error: BaseException, settings: Settings) -> str:
    """Return one line: what stopped the worker."""
    if isinstance(error, InvalidSessionTimeoutError):
        return (
            f"Kafka takes no session of {settings.session_timeout_seconds:g} s: set "
            f"{variable('session_timeout_seconds')} to what lies between the brokers' "
            "group.min.session.timeout.ms and group.max.session.timeout.ms"
        )
    if isinstance(error, InconsistentGroupProtocolError):
        return (
            f"group {settings.group} is another program's, whose members share partitions in "
            f"another way: end it, or set {variable('group')} to a name of dialwatch's own"
        )
    options, group = settings.kafka_client_options(), settings.group
    error = forbidden(error, options, operation="Read", group=group) or error
    text = " ".join(str(error).split()) or repr(error)
    is_ours = type(error).__module__.startswith("streams.")
    return text if is_ours else f"{type(error).__name__}: {text}"

"""`dialwatch console`: open the index, listen, follow the topics, until SIGTERM or SIGINT."""

import asyncio
import fcntl
import gc
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from app.console.indexer import Indexer
from app.console.lookups import KafkaLookups
from app.console.server import ConsoleServer
from app.console.views import Views
from app.errors import CommandError
from app.settings import Settings
from streams.kafka import fetching

log = logging.getLogger(__name__)

LAG_SECONDS = 15.0
_MOST_RECORDS = 2_000  # of one partition at once
_GC_THRESHOLD = 100_000


def run_console(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. Raises CommandError."""
    # This changes all consumers of the process; the indexer's is the only one.
    fetching.install()
    fetching.hand_over(_MOST_RECORDS)
    # Rows make no reference cycles, so that collecting garbage among so many is useless.
    gc.set_threshold(_GC_THRESHOLD)
    with _held(settings.console_datadir):
        asyncio.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop() -> None:
        if not end.done():
            end.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with AsyncExitStack() as opened:
        indexer, kafka = Indexer(settings), KafkaLookups(settings)
        opened.push_async_callback(indexer.close)
        await indexer.open()
        opened.push_async_callback(kafka.close)
        views = Views(settings, indexer, kafka)
        opened.callback(views.close)
        server = ConsoleServer(settings, indexer, kafka, views)
        address = await server.start()
        opened.push_async_callback(server.stop)
        log.info("the console is at %s", address)
        tasks = [
            asyncio.create_task(indexer.run()),
            asyncio.create_task(_sample_lag(indexer, kafka)),
        ]
        either: set[asyncio.Future[None]] = {*tasks, end}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _sample_lag(indexer: Indexer, kafka: KafkaLookups) -> None:
    """Store how far the group is behind, at intervals, for the charts."""
    while True:
        lag, at = await kafka.lag(kept_s=LAG_SECONDS / 2)
        if lag is not None and at is not None and time.time_ns() // 1000 - at < LAG_SECONDS * 1e6:
            by_topic: dict[str, tuple[int, float]] = {}
            for row in lag["partitions"]:
                records, seconds = by_topic.get(row["topic"], (0, 0.0))
                behind = row["seconds_behind"] or 0.0
                by_topic[row["topic"]] = (records + row["lag"], max(seconds, behind))
            await indexer.add_lags(at, [(topic, *found) for topic, found in by_topic.items()])
        await asyncio.sleep(LAG_SECONDS)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Lock the directory while the console runs. Raises CommandError where another has it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "console.lock").open("w")
    except OSError as error:
        raise CommandError(
            f"can't write to {directory} ({error.strerror}): set DIALWATCH_CONSOLE_DATADIR to a "
            "directory on a disk with room"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(
                f"another console runs on {directory}: give each its own DIALWATCH_CONSOLE_DATADIR"
            ) from None
        yield

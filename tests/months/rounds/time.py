"""What time does to an installation that is left alone, stopped or restarted now and then."""

import asyncio
import shutil

from tests.faults.suite import release_0_1_0
from tests.months.history import BEGAN
from tests.months.month import EXPIRED, Month
from tests.months.registry import needs
from tests.months.short import MAX_POLL_SECONDS, ShortWorker


async def quiet_week(month: Month) -> None:
    """A week in which nothing comes, retention empties what it may, and then a deploy."""
    await month.begin()
    await month.live()
    await month.end_all()
    await month.expire_all()
    await month.begin()
    await month.live()
    await month.compare_books()


async def expired_offsets(month: Month) -> None:
    """Stopped for so long that the group is forgotten, and Redis with it: nothing comes twice."""
    await month.begin()
    await month.live()
    await month.end_all()
    await month.forget_offsets()
    await month.begin()
    await month.live()
    await month.end_all()
    await month.expire_all()
    await month.forget_offsets()
    await month.begin()
    await month.live()
    await month.compare_books()


async def hold_longer_than_retention(month: Month) -> None:
    """Providers are away for longer than records live in topics as they stood: all is told."""
    topics = month.installation.topics
    outboxes = [topics.wechat_outbox, topics.sms_outbox]
    await month.begin()
    await month.live()
    await month.end_all()
    for name in outboxes:  # as somebody's cluster may have it, until a worker looks
        await month.installation.configure(name, EXPIRED)
    month.sandbox.faults.is_away = True
    await month.begin()
    await month.fold()
    waiting = await month.what_is_left()
    assert waiting.endswith("have not ended"), waiting
    for _ in range(2):
        await asyncio.sleep(5.0)  # records live for one, and it is looked each second
        await month.deploy()
    month.check_workers()
    assert await month.what_is_left() == waiting
    month.note(waiting)
    month.sandbox.faults.is_away = False
    await month.stand_still()
    await month.compare_books()


@needs(partitions=1)
async def spare_worker(month: Month) -> None:
    """A worker without partitions, for much longer than the poll interval, takes over."""
    await month.begin()
    await month.live(calls=100)
    await asyncio.sleep(2.5 * MAX_POLL_SECONDS)
    month.check_workers()
    calls = month.installation.topics.calls
    (owner,) = [one for one in month.workers if one.partitions().get(calls)]
    (spare,) = [one for one in month.workers if one is not owner]
    assert spare.get("/health")[0] == 200
    assert spare.get("/ready")[0] == 200
    month.kill(owner)
    month.note(f"moved in {await month.alone(spare, 60.0):.1f} s")
    await month.live(calls=100)
    month.launch(owner)
    await month.compare_books()


@needs(has_topics=False)
async def upgrade_from_0_1_0(month: Month) -> None:
    """Weeks on 0.1.0, whose own topics it made; then a stop, this version, and more weeks."""
    release = await asyncio.to_thread(release_0_1_0, month.installation.directory / "0.1.0")
    month.workers = [month.installation.worker(is_started=False) for _ in range(2)]
    for worker in month.workers:
        assert isinstance(worker, ShortWorker)
        worker.release = release
        assert worker.environment is not None
        worker.environment["PYTHONPATH"] = str(release)
    await month.begin()
    await month.live()
    await month.live()
    await month.end_all()
    # New ones, in the directories of the old.
    month.workers.clear()
    month.installation.workers.clear()
    await month.begin()
    await month.live()
    await month.end_all()
    await month.expire_all()
    await month.begin()
    await month.live()
    await month.compare_books()


async def months(month: Month) -> None:
    """Some months, and in each something that only months bring, in any order."""

    async def stopped(*befalls: str) -> None:
        await month.end_all()
        if "retention" in befalls:
            await month.expire_all()
        if "offsets" in befalls:
            await month.forget_offsets()
        if "broker" in befalls:
            await asyncio.to_thread(month.servers.kafka.stop)
            await asyncio.to_thread(month.servers.kafka.start)
        if "redis" in befalls:
            await asyncio.to_thread(month.servers.valkey.kill)
            await asyncio.to_thread(month.servers.valkey.start)
        if "directory" in befalls:
            shutil.rmtree(month.workers[0].directory / "data")
        await month.begin()

    fates = [
        ("retention", "offsets"),
        ("retention", "broker"),
        ("offsets", "directory"),
        ("redis", "broker"),
        ("deploy",),
        ("kill",),
    ]
    month.rng.shuffle(fates)
    await month.begin()
    for fate in fates:
        await month.live()
        match fate:
            case ("deploy",):
                await month.deploy()
            case ("kill",):
                worker, _ = month.pick()
                month.kill(worker)
                await asyncio.sleep(month.rng.uniform(0.0, 9.0))
                month.launch(worker)
                await month.all_ready()
            case _:
                await stopped(*fate)
    await month.live()
    month.note(f"{(month.history.now.date() - BEGAN.date()).days} days")
    await month.compare_books()

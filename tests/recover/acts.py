"""What befalls an installation, and what an operator does then: `docs/recover.md`, tried.

Each public coroutine function here is an act; its docstring says what must come of it.
"""

import asyncio
import inspect
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from typing import Any

from app.local.stack import Stack
from tests import kafka_admin
from tests.faults.books import FINAL
from tests.installation import Published
from tests.recover.world import World
from tests.samples import account, announcement, call, recharge


async def upgrade_and_back(world: World) -> None:
    """0.1.0, this version, 0.1.0 again, this version: a worker at a time, while calls come."""
    release = await world.release()
    for worker in (world.installation.worker(is_started=False) for _ in range(2)):
        world.workers.append(worker)
        world.make(worker, release)
    await world.begin()
    await world.leg()
    for version in (None, release, None):
        publishing = asyncio.create_task(world.leg())
        await asyncio.sleep(1.0)
        world.is_watched = False
        await world.roll(version)
        world.is_watched = True
        await publishing
        await world.leg()
    await world.compare_books()


async def lost_directories(world: World) -> None:
    """The workers' machines are gone, with all that was on their disks."""
    await world.begin()
    await world.leg()
    for worker in world.workers:
        world.kill(worker)
        shutil.rmtree(worker.directory / "data")
    await world.begin()
    await world.leg()
    await world.compare_books()


async def lost_redis(world: World) -> None:
    """Redis is made anew, empty, while workers run."""
    await world.begin()
    await world.leg()
    world.servers.valkey.kill()
    shutil.rmtree(world.servers.valkey.directory)
    await asyncio.to_thread(world.servers.valkey.start)
    await world.leg()
    await world.compare_books()


async def restored_backup(world: World) -> None:
    """Kafka is lost and comes back as it was a while ago: what was published since is published
    again, and nobody is told twice, as Redis remembers who was told."""
    await world.begin()
    await world.leg()
    await world.end_all()
    copy, before = world.installation.directory / "backup", len(world.said)
    await asyncio.to_thread(world.back_up, copy)
    held = await world.counts()
    await world.begin()
    await world.leg()
    told = len(world.sandbox.wechat.messages)
    await world.end_all()
    await world.restore(copy)
    assert await world.counts() == held
    await world.begin()
    await world.publish_again(before)
    assert len(world.sandbox.wechat.messages) == told
    await world.leg()
    await world.compare_books()


async def restored_under_workers(world: World) -> None:
    """The same while workers run: they know more than Kafka does, and end rather than go on."""
    await world.begin()
    await world.leg()
    await world.end_all()
    copy, before = world.installation.directory / "backup", len(world.said)
    await asyncio.to_thread(world.back_up, copy)
    await world.begin()
    await world.leg()
    world.is_watched = False
    await world.restore(copy)
    for worker in world.workers:
        world.note(await world.ended(worker))
    world.is_watched = True
    await world.begin()
    await world.publish_again(before)
    await world.leg()
    await world.compare_books()


async def another_cluster(world: World) -> None:
    """Everything is told, the topics are copied with the state, and the group goes on at their
    ends: nothing is forgotten and nothing comes twice."""
    with Stack() as other:
        await world.begin()
        await world.leg()
        await world.end_all()
        topics = world.installation.topics
        contract = [topic.name for topic in topics.contract()]
        await world.move(other, [*contract, topics.changelog, topics.handled_letters])
        said = await world.refused("was deleted or made anew", "--to-latest")
        await world.decide(TOPIC.findall(said), to_end=True)
        await world.begin()
        await world.leg()
        await world.compare_books()


async def another_cluster_without_state(world: World) -> None:
    """Only what was published is copied, and folded from its beginning: everything is noticed
    again, under the same ids, and whom Redis knows to be told is not told again."""
    made = world.installation
    with Stack() as other:
        await world.begin()
        await made.publish(PAST)
        before = await made.wait_for("deliveries", is_told(5))
        await world.end_all()
        topics = made.topics
        await world.move(
            other,
            [topics.accounts, topics.calls, topics.recharges, topics.ticks, topics.announcements],
        )
        await world.begin()
        again = await made.wait_for("notifications", is_told(5))
        assert ids(again) == ids(before)
        # The run's first half came from the copy.
        await made.publish(failed(5, 10))
        commands = await made.wait_for("notifications", is_told(7))
        # What Redis knows to be sent may be without a delivery here.
        new = ids(
            one
            for one in commands
            if one["channel"] == "inbox" or one["scenario"] == "unreachable_run"
        )
        await made.wait_for("deliveries", lambda found: new <= ids(found))
        assert len(world.sandbox.wechat.messages) == 3


async def begun_anew_with_accounts(world: World) -> None:
    """Only customers are copied: they are known, and all that was under way is forgotten."""
    made = world.installation
    with Stack() as other:
        await world.begin()
        await made.publish(PAST)
        await made.wait_for("deliveries", is_told(5))
        await world.end_all()
        await world.move(other, [made.topics.accounts])
        await world.begin()
        await made.publish(failed(5, 10))
        await made.publish(failed(10, 15))
        told = await made.wait_for("notifications", bool)
        assert [one["cause"]["first_call_id"] for one in told] == ["acme-call-5"] * 2


async def _lose_the_state(world: World) -> None:
    """Run through the past, stop, and delete what the changelog holds."""
    made = world.installation
    await world.begin()
    await made.publish(PAST)
    await made.wait_for("deliveries", is_told(5))
    await world.end_all()
    await kafka_admin.make_anew(made, made.topics.changelog)


async def _count_from_zero(world: World) -> None:
    """Run on, and check that the run of calls begins with those published now."""
    made = world.installation
    await world.begin()
    await made.publish(failed(5, 15))
    await made.wait_for("deliveries", is_told(7))
    told = await made.read_values("notifications")
    assert [
        one["cause"]["first_call_id"] for one in told if one["scenario"] == "unreachable_run"
    ] == ["acme-call-5"] * 2


async def forgotten_on_purpose(world: World) -> None:
    """The state is deleted: the worker says so, and goes on with customers read again."""
    made = world.installation
    await _lose_the_state(world)
    await world.refused("doesn't hold the state", "--all-topics --to-current", "--to-earliest")
    every = [one.name for one in (*made.topics.contract(), *made.topics.internal())]
    await kafka_admin.reset_to_current(made, every)
    await world.decide([made.topics.accounts], to_end=False)
    await _count_from_zero(world)


async def forgotten_with_its_offsets(world: World) -> None:
    """The state is gone and the group's offsets have expired: that it was here is known by its
    queues, so nothing is begun anew, and one of the line's commands decides."""
    made = world.installation
    await _lose_the_state(world)
    await kafka_admin.delete_group(made)
    said = await world.refused("has no offsets", "--to-latest", "--to-earliest")
    sent = len(world.sandbox.wechat.messages)
    await world.decide(set(TOPIC.findall(said)), to_end=True)
    await world.decide([made.topics.accounts], to_end=False)
    await _count_from_zero(world)
    assert len(world.sandbox.wechat.messages) == sent + 1


async def read_again_on_purpose(world: World) -> None:
    """Offsets are set back: what is read again is known, and nobody is told again."""
    made = world.installation
    await world.begin()
    await made.publish([*PAST, *failed(5, 10)])
    await made.wait_for("deliveries", is_told(7))
    await world.end_all()
    topics = made.topics
    await world.decide([topics.calls, topics.recharges, topics.announcements], to_end=False)
    await world.begin()
    await world.fold_all()
    assert len(await made.read_values("notifications")) == 7


SUBMITTED = "2019-01-30T14:00:00+08:00"
TOPIC = re.compile(r"--topic ([\w.-]+)")
ACTS = {
    name.replace("_", "-"): act
    for name, act in list(globals().items())
    if inspect.iscoroutinefunction(act) and not name.startswith("_")
}


def failed(begin: int, end: int) -> list[Published]:
    """Calls of one batch that nobody answered."""
    return [
        call("acme", index, result="F", batch_size=50, submitted_at=SUBMITTED)
        for index in range(begin, end)
    ]


# Money that arrived, an announcement, and half of a run.
PAST = [account("acme"), recharge("acme", "r1"), announcement("n1"), *failed(0, 5)]


def is_told(count: int) -> Any:
    return lambda found: len(ids(found)) >= count


def ids(found: Iterable[dict[str, Any]]) -> Counter[str]:
    """Of commands, or of deliveries that are an end."""
    return Counter(one["notification_id"] for one in found if one.get("status", "sent") in FINAL)

"""Holds in force, left in Redis by workers for whoever looks."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from agents.channel import StoreAwayError
from agents.holds import HoldView
from agents.outcomes import Held
from app.local.valkey import Valkey
from app.redis_store import open_redis
from app.shared_holds import KEPT_SECONDS, read_holds, share_holds
from tests.installation import PATIENCE_SECONDS
from tests.send.fakes import SHANGHAI, World, notification
from tests.send.test_send import answering
from tests.virtual_time import run_virtually


def hold(reason: str, *, since: int = 1, until: int = 9) -> HoldView:
    """Return a hold of WeChat between two seconds."""
    moment = "2026-02-14T10:00:0{}+08:00".format
    return HoldView("wechat", reason, None, moment(until), "said", moment(since))


async def until(question: Callable[[], Awaitable[object]]) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await question():  # noqa: ASYNC110 (Redis tells nobody)
            await asyncio.sleep(0.01)


async def shared(redis: Redis) -> list[HoldView]:
    """Return the holds once there are any."""
    await until(lambda: read_holds(redis, "g"))
    return await read_holds(redis, "g")


async def test_what_a_worker_holds_is_read_by_whoever_asks_and_ends_with_it(redis: Redis) -> None:
    working = asyncio.create_task(share_holds(redis, "g", "w1", lambda: [hold("45009")]))
    assert await shared(redis) == [hold("45009")]
    assert await read_holds(redis, "another") == []
    # A worker that is killed takes nothing back: its holds end by themselves.
    assert 0 < await redis.ttl("g:holds:w1") <= KEPT_SECONDS
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert await read_holds(redis, "g") == []


async def test_a_worker_that_ends_while_it_writes_takes_that_back_too(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = redis.eval

    async def write_and_hang(*given: object) -> None:
        await write(*given)  # type: ignore[arg-type,misc]
        await asyncio.sleep(3600)

    monkeypatch.setattr(redis, "eval", write_and_hang)
    working = asyncio.create_task(share_holds(redis, "g", "w1", lambda: [hold("45009")]))
    assert await shared(redis) == [hold("45009")]
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert await read_holds(redis, "g") == []


async def test_a_hold_of_several_workers_is_one_the_longest_standing_and_first_to_end(
    redis: Redis,
) -> None:
    views = {"w1": hold("-1", since=3, until=7), "w2": hold("-1", until=8)}
    working = [
        asyncio.create_task(share_holds(redis, "g", worker, lambda view=view: [view]))
        for worker, view in views.items()
    ]
    await until(lambda: redis.exists("g:holds:w1"))
    await until(lambda: redis.exists("g:holds:w2"))
    assert await read_holds(redis, "g") == [hold("-1", since=1, until=7)]
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)


async def test_workers_that_are_gone_are_forgotten(redis: Redis) -> None:
    await redis.sadd("g:holding-workers", "gone")  # type: ignore[misc]
    working = asyncio.create_task(share_holds(redis, "g", "w1", lambda: [hold("45009")]))
    await shared(redis)
    assert await redis.smembers("g:holding-workers") == {b"w1"}  # type: ignore[misc]
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_holds_go_as_they_end_and_a_redis_that_was_away_is_told_later(
    valkey: Valkey,
) -> None:
    redis = open_redis(valkey.redis_url)
    held = [hold("45009")]
    valkey.kill()
    working = asyncio.create_task(share_holds(redis, "g", "w1", lambda: held, look_s=0.02))
    await asyncio.sleep(0.1)
    with pytest.raises(StoreAwayError):
        await read_holds(redis, "g")
    valkey.start()
    assert await shared(redis) == held
    held.clear()

    async def are_over() -> bool:
        return not await read_holds(redis, "g")

    await until(are_over)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await redis.aclose()


def test_a_hold_stands_since_it_was_first_met_whatever_probes_are_told() -> None:
    world = World(answering(Held("quota", 60, 45009)))

    async def main() -> None:
        world.take(notification("n1", "a"))
        for until in ("15:53:10", "15:55:10"):
            await asyncio.sleep(1 if until == "15:53:10" else 120)
            (view,) = world.channel.holds.views(SHANGHAI)
            assert view.since == "2019-01-30T15:52:10.050000+08:00"
            assert view.until[11:19] == until
        await world.agent.on_revoked([0])

    run_virtually(main())

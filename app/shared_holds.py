"""The present holds of all workers of an installation, in Redis, for console and commands.

Each worker writes its holds under a key of its own, which expires soon after the worker ends; one
set has the workers' names. Readers call `read_holds`. What a hold is, and when it begins and ends,
is in `agents/holds.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import cast

import msgspec
from redis.asyncio import Redis

from agents.channel import StoreAwayError
from agents.holds import HoldView
from app.redis_store import store_errors

LOOK_SECONDS = 1.0
REFRESH_SECONDS = 10.0
# A key lives for several refreshes, of which some may be late.
KEPT_SECONDS = 40
_WORKERS_KEPT_SECONDS = 86400

# KEYS: the worker's holds, the names of workers. ARGV: holds, this worker, two lifetimes, prefix.
# Also removes the names of workers that have no key any more.
_LEAVE = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[4])
for _, worker in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if redis.call('EXISTS', ARGV[5] .. worker) == 0 then redis.call('SREM', KEYS[2], worker) end
end
return 1
"""

_decode = msgspec.json.Decoder(list[dict[str, str | None]]).decode


async def read_holds(redis: Redis, group: str) -> list[HoldView]:
    """Return the present holds of all workers of the group, each once.

    A hold of several workers has the earliest `since` and the earliest next try. Raises
    StoreAwayError.
    """
    with store_errors():
        workers = await cast("Awaitable[set[bytes]]", redis.smembers(_workers_key(group)))
        if not workers:
            return []
        left = await redis.mget([_key(group, worker.decode()) for worker in sorted(workers)])
    # By field names, because a worker of another version may write more fields.
    return merged(
        HoldView._make(hold[name] for name in HoldView._fields)
        for value in left
        if value
        for hold in _decode(value)
    )


def merged(views: Iterable[HoldView]) -> list[HoldView]:
    """Return each hold once, with the earliest `since` and the earliest next try."""
    found: dict[tuple[str, str, str | None], HoldView] = {}
    for view in views:
        name = (view.channel, view.reason, view.scope)
        known = found.get(name, view)
        first = min(known, view, key=lambda one: one.until)
        found[name] = first._replace(since=min(known.since, view.since))
    return list(found.values())


async def share_holds(
    redis: Redis,
    group: str,
    worker_id: str,
    holds: Callable[[], list[HoldView]],
    *,
    look_s: float = LOOK_SECONDS,
) -> None:
    """Write a worker's holds to Redis, again and again until cancelled; then delete them.

    While Redis is away nothing is written; the next round writes again.
    """
    loop = asyncio.get_running_loop()
    shared: list[HoldView] = []
    shared_at = 0.0
    may_be_there = False
    try:
        while True:
            views = merged(holds())
            if views != shared or (views and loop.time() - shared_at >= REFRESH_SECONDS):
                # What is written may be there also where the answer is not awaited or never comes.
                may_be_there = may_be_there or bool(views)
                with suppress(StoreAwayError):
                    await _leave(redis, group, worker_id, views)
                    shared, shared_at, may_be_there = views, loop.time(), bool(views)
            await asyncio.sleep(look_s)
    finally:
        if may_be_there:
            with suppress(StoreAwayError):
                await _leave(redis, group, worker_id, [])


async def _leave(redis: Redis, group: str, worker_id: str, views: list[HoldView]) -> None:
    with store_errors():
        if not views:
            await redis.delete(_key(group, worker_id))
            return
        keys = (_key(group, worker_id), _workers_key(group))
        arguments = (
            msgspec.json.encode([view._asdict() for view in views]),
            worker_id,
            str(KEPT_SECONDS),
            str(_WORKERS_KEPT_SECONDS),
            _key(group, ""),
        )
        await cast("Awaitable[int]", redis.eval(_LEAVE, len(keys), *keys, *arguments))


def _key(group: str, worker_id: str) -> str:
    return f"{group}:holds:{worker_id}"


def _workers_key(group: str) -> str:
    return f"{group}:holding-workers"

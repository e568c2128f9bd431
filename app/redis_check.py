"""Checks whether the sender can rely on this Redis, at a worker's start and in `doctor`."""

import asyncio
from contextlib import suppress
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from agents.channel import StoreAwayError
from app.errors import CommandError
from app.redis_store import IS_CLUSTER, store_errors
from app.settings import variable

LOOK_SECONDS = 3.0

Verdict = Literal["ok", "warn", "fail"]


async def refuse_cluster(redis: Redis) -> None:
    """Raise CommandError where Redis is a cluster, with which errors come only after a message was
    sent.

    Raises StoreAwayError.
    """
    with store_errors():
        await redis.ping()
    if (await _info(redis)).get("cluster_enabled"):
        raise CommandError(f"{variable('redis_url')}: {IS_CLUSTER}")


async def refuse_cluster_when_it_answers(redis: Redis) -> None:
    """Like `refuse_cluster`, but wait while Redis is away."""
    while True:
        with suppress(StoreAwayError):
            await refuse_cluster(redis)
            return
        await asyncio.sleep(LOOK_SECONDS)


async def examine_redis(redis: Redis) -> list[tuple[Verdict, str]]:
    """Return verdicts, each with a line that says what to do; the worst first."""
    try:
        with store_errors():
            await redis.ping()
    except StoreAwayError as error:
        return [("fail", f"{error}: start it, or set {variable('redis_url')}")]
    info = await _info(redis)
    found: list[tuple[Verdict, str]] = []
    if info.get("cluster_enabled"):
        found.append(("fail", f"{IS_CLUSTER} ({variable('redis_url')})"))
    if info.get("role") in {"slave", "replica"}:
        found.append(
            ("fail", f"it is a replica, which takes nothing: name the primary in "
             f"{variable('redis_url')}")
        )  # fmt: skip
    # Hosted Redis servers often forbid CONFIG; INFO has the policy too.
    policy = (await _config(redis, "maxmemory-policy")) or info.get("maxmemory_policy")
    if policy not in {"noeviction", None}:
        found.append(
            (
                "warn",
                f"maxmemory-policy is {policy}: what was sent may be forgotten; set noeviction",
            )
        )
    if info.get("aof_enabled") == 0:
        snapshots = await _config(redis, "save")
        forgets = "everything" if snapshots == "" else "what came since its last snapshot"
        found.append(
            ("warn", f"when it restarts it forgets {forgets}, and what was sent may be sent again: "
             "set appendonly yes")
        )  # fmt: skip
    return found or [("ok", "it answers, and forgets nothing")]


async def _info(redis: Redis) -> dict[str, Any]:
    """Return the answer to INFO; empty where that is forbidden. Raises StoreAwayError."""
    with store_errors():
        try:
            return dict(await redis.info())
        except NoPermissionError:
            return {}


async def _config(redis: Redis, name: str) -> str | None:
    """Return a setting of Redis; None: CONFIG is forbidden."""
    with suppress(StoreAwayError), store_errors():
        value: str | None = (await redis.config_get(name)).get(name)
        return value
    return None

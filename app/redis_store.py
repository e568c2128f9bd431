"""The Redis client, and the one error for "Redis is away".

Redis must be one server, or one name behind which another server takes over. A cluster doesn't
work: it spreads keys over servers, and our scripts use several keys in one step.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    MovedError,
    ReadOnlyError,
    RedisError,
)

from agents.channel import StoreAwayError

MOST_CONNECTIONS = 32
MOST_TOGETHER = 200
TIMEOUT_SECONDS = 3.0

IS_CLUSTER = "it is a cluster, which dialwatch can't use: name one Redis, or one that fails over"


class _Redis(Redis):
    """A client that leaves a node which became a replica: the name leads to another node by then,
    but the old connections still lead to this one."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ReadOnlyError:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Drop all present connections."""
        await self.connection_pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
        await self.connection_pool.disconnect(inuse_connections=False)


def open_redis(url: str) -> Redis:
    """Return a client whose values are bytes. It connects when it is first used; close it with
    `aclose()`.

    Raises ValueError or TypeError where a part of the URL is wrong.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MOST_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        # One retry, because Redis may have closed an idle connection.
        retry=Retry(NoBackoff(), 1),
    )
    return _Redis.from_pool(pool)


class Together:
    """Sends the commands of many callers to Redis in one round trip. One trip runs at a time;
    commands that come meanwhile go with the next. Each command succeeds or fails by itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[tuple[tuple[bytes | str, ...], asyncio.Future[Any]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, *command: bytes | str) -> Any:
        """Send one command; return its answer. Raises what the redis package raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._asking is None or self._asking.done():
            # In a task of its own: the first caller may be cancelled, and the others wait on.
            self._asking = asyncio.create_task(self._ask_all())
        return await answer

    async def _ask_all(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            pipeline = self._redis.pipeline(transaction=False)
            for command, _ in asked:
                pipeline.execute_command(*command)
            answers: list[Any]
            try:
                answers = await pipeline.execute(raise_on_error=False)
                is_replica = any(isinstance(answer, ReadOnlyError) for answer in answers)
                if is_replica and isinstance(self._redis, _Redis):
                    await self._redis.leave()
            except Exception as error:  # whatever it is, it goes to those who wait
                answers = [error] * len(asked)
            for (_, waiter), answer in zip(asked, answers, strict=True):
                if waiter.done():
                    continue
                if isinstance(answer, Exception):
                    waiter.set_exception(answer)
                else:
                    waiter.set_result(answer)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn every error of Redis, or of the way to it, into StoreAwayError.

    This includes refusals (read only, out of memory, still loading, wrong password): each lasts
    until somebody repairs Redis, and until then nothing may be begun.
    """
    try:
        yield
    except (MovedError, AskError, ClusterCrossSlotError) as error:
        raise StoreAwayError(f"Redis: {IS_CLUSTER}") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreAwayError(f"Redis: {type(error).__name__}") from error

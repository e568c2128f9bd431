"""Redis, as dialwatch uses it: one client for the worker, and one error for "it is away".

One Redis, or one name behind which another takes over: no cluster, whose keys lie apart, while what
is written here in one step has several.
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
    """Leaves a node that became a replica: the name leads to another one by now, and connections
    made before still lead to this one."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ReadOnlyError:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Use none of the connections again that there are."""
        await self.connection_pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
        await self.connection_pool.disconnect(inuse_connections=False)


def open_redis(url: str) -> Redis:
    """Return a client for bytes. Connects when it is first used; close it with `aclose()`.

    Raises ValueError or TypeError where a part of the URL is wrong.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MOST_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        # Once: a connection that Redis closed while it was idle is replaced at once.
        retry=Retry(NoBackoff(), 1),
    )
    return _Redis.from_pool(pool)


class Together:
    """Asks Redis what many ask at one moment in one round trip, one such trip at a time: what is
    asked meanwhile goes with the next. Each question is answered, or fails, by itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[tuple[tuple[bytes | str, ...], asyncio.Future[Any]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, *command: bytes | str) -> Any:
        """Return the answer to one command. Raises what redis raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._asking is None or self._asking.done():
            # Of its own: who asked first may be cancelled, and the others want their answers.
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
            except Exception as error:  # whatever it is, it is for those who asked
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
    """Turn whatever Redis or the way to it fails with into StoreAwayError.

    Also its refusals (read only, out of memory, still loading, wrong password): each ends when
    somebody repairs Redis, and until then nothing may be begun.
    """
    try:
        yield
    except (MovedError, AskError, ClusterCrossSlotError) as error:
        raise StoreAwayError(f"Redis: {IS_CLUSTER}") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreAwayError(f"Redis: {type(error).__name__}") from error

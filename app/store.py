"""Redis, as dialwatch uses it: one client for the worker, and one error for "it is away"."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agents.channel import StoreAwayError

MOST_CONNECTIONS = 32
TIMEOUT_SECONDS = 3.0


def open_redis(url: str) -> Redis:
    """Return a client for bytes. Connects when it is first used; close it with `aclose()`."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MOST_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        # Once: a connection that Redis closed while it was idle is replaced at once.
        retry=Retry(NoBackoff(), 1),
    )
    return Redis.from_pool(pool)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn whatever Redis or the way to it fails with into StoreAwayError.

    Also its refusals (read only, out of memory, still loading, wrong password): each ends when
    somebody repairs Redis, and until then nothing may be begun.
    """
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreAwayError(f"Redis: {type(error).__name__}") from error

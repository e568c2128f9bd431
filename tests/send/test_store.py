"""The Redis that is given: one that fails over behind its name, a cluster, one that forgets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from agents.channel import Entry, LaterWord, StoreAwayError
from app.channels.wechat.receipts import Receipts
from app.errors import CommandError
from app.ledger import RedisLedger
from app.local.service import free_port
from app.local.valkey import Valkey
from app.redis_check import examine_redis, refuse_cluster, refuse_cluster_when_it_answers
from app.redis_store import MOST_CONNECTIONS, open_redis
from tests.installation import PATIENCE_SECONDS


class OtherValkey(Valkey):
    """One with other settings than the local stack's."""

    flags: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [*super().command(), *self.flags]


@contextmanager
def running(directory: Path, *flags: str) -> Iterator[Valkey]:
    server = OtherValkey(directory)
    server.flags = flags
    server.start()
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    redis = open_redis(url)
    try:
        yield redis
    finally:
        await redis.aclose()


class Name:
    """A name that leads to one server now and to another later; what is connected stays."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(_copy(reader, back), _copy(onward, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    finally:
        writer.close()


async def test_after_a_failover_behind_its_name_the_new_primary_is_used_at_once(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "a") as first, running(tmp_path / "b") as second:
        name = Name(first.port)
        server = await asyncio.start_server(name.connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with client(f"redis://127.0.0.1:{port}/0") as redis:
            ledger = RedisLedger(redis, "g")
            ids = [f"n{number}" for number in range(2 * MOST_CONNECTIONS)]
            await asyncio.gather(*[ledger.write(one, Entry("t-0-1")) for one in ids])
            name.port = second.port
            async with client(first.redis_url) as old:
                await old.replicaof("127.0.0.1", second.port)
            with pytest.raises(StoreAwayError, match="ReadOnlyError"):
                await ledger.write("n0", Entry("t-0-1"))
            # One was told; all the other connections left that node with it.
            await asyncio.gather(*[ledger.write(one, Entry("t-0-1")) for one in ids])
            async with client(second.redis_url) as new:
                assert await new.dbsize() == len(ids)
        server.close()


def as_a_cluster() -> tuple[str, ...]:
    """Return the flags. The port of the cluster's bus is by default one of those that the system
    gives out to connections."""
    return "--cluster-enabled", "yes", "--cluster-port", str(free_port())


async def test_a_cluster_is_refused_at_the_start_and_never_breaks_after_a_message(
    tmp_path: Path,
) -> None:
    with running(tmp_path, *as_a_cluster()) as server:
        async with client(server.redis_url) as redis:
            with pytest.raises(CommandError, match="it is a cluster") as refused:
                await refuse_cluster(redis)
            assert "DIALWATCH_REDIS_URL" in str(refused.value)
            assert (await examine_redis(redis))[0][0] == "fail"
            await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")  # type: ignore[no-untyped-call]
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await redis.cluster("INFO"))["cluster_state"] != "ok":  # type: ignore[no-untyped-call]  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            with pytest.raises(StoreAwayError, match="it is a cluster"):
                await Receipts(redis, "g").match("7", LaterWord("delivered"))


async def test_a_cluster_that_was_away_at_the_start_is_refused_when_it_answers(
    tmp_path: Path,
) -> None:
    with running(tmp_path, *as_a_cluster()) as server:
        async with client(server.redis_url) as redis:
            server.kill()
            with pytest.raises(StoreAwayError):
                await refuse_cluster(redis)
            waiting = asyncio.create_task(refuse_cluster_when_it_answers(redis))
            await asyncio.sleep(0.2)
            server.start()
            with pytest.raises(CommandError, match="it is a cluster"):
                await asyncio.wait_for(waiting, PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("flags", "verdict", "said"),
    [
        ((), "ok", "it answers"),
        (("--maxmemory-policy", "allkeys-lru"), "warn", "set noeviction"),
        (("--appendonly", "no"), "warn", "it forgets everything"),
        (("--appendonly", "no", "--save", "60 1"), "warn", "since its last snapshot"),
        (("--replicaof", "127.0.0.1", "1"), "fail", "name the primary"),
    ],
)
async def test_the_doctor_sees_what_a_redis_would_forget(
    tmp_path: Path, flags: tuple[str, ...], verdict: str, said: str
) -> None:
    with running(tmp_path, *flags) as server:
        async with client(server.redis_url) as redis:
            ((met, text),) = await examine_redis(redis)
    assert (met, said in text) == (verdict, True)


async def test_a_redis_that_is_away_is_told_with_what_to_do() -> None:
    async with client("redis://127.0.0.1:1/0") as redis:
        ((verdict, text),) = await examine_redis(redis)
    assert verdict == "fail"
    assert "set DIALWATCH_REDIS_URL" in text

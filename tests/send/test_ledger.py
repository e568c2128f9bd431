"""What every ledger promises: the one in Redis, and the one in memory that other tests rely on."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from agents.channel import Bar, Claim, Entry, LaterWord, Ledger, StoreAwayError
from app.ledger import RedisLedger
from app.local.valkey import Valkey
from app.redis_store import open_redis
from streams.records import Delivery
from tests.send.fakes import MemoryLedger

DELIVERY = Delivery(
    "n1", "wechat", "a", "batch_completed", "failed", 2, "2019-01-30T15:52:10+08:00", None, 43101
)
FULL = Entry("t-0-1", attempts=3, strikes=1, doubt_since=5, not_before=7)


@pytest.fixture(params=["memory", "redis"])
async def ledger(request: pytest.FixtureRequest, redis: Redis) -> Ledger:
    return MemoryLedger() if request.param == "memory" else RedisLedger(redis, "g")


def ended(coordinates: str = "t-0-1") -> Entry:
    return Entry(coordinates, attempts=2, deliveries=[DELIVERY])


async def test_of_what_was_never_begun_nothing_is_known(ledger: Ledger) -> None:
    assert await ledger.read("n1") is None


async def test_what_was_begun_is_remembered_with_all_it_needs(ledger: Ledger) -> None:
    assert await ledger.write("n1", FULL) is None
    assert await ledger.read("n1") == FULL
    assert await ledger.read("n2") is None


async def test_the_same_record_goes_on_with_its_entry(ledger: Ledger) -> None:
    await ledger.write("n1", Entry("t-0-1", attempts=1, doubt_since=5))
    assert await ledger.write("n1", Entry("t-0-1", attempts=2)) is None
    assert await ledger.read("n1") == Entry("t-0-1", attempts=2)


async def test_another_record_does_not_take_over_what_one_has_begun(ledger: Ledger) -> None:
    await ledger.write("n1", FULL)
    assert await ledger.write("n1", Entry("t-0-9", attempts=1)) == FULL
    assert await ledger.read("n1") == FULL


@pytest.mark.parametrize("coordinates", ["t-0-1", "t-0-9"])
async def test_nobody_begins_again_what_has_ended(ledger: Ledger, coordinates: str) -> None:
    await ledger.write("n1", Entry("t-0-1", attempts=1))
    await ledger.finish("n1", ended())
    assert await ledger.write("n1", Entry(coordinates, attempts=1)) == ended()
    assert await ledger.read("n1") == ended()


async def test_what_ended_without_a_delivery_has_ended_too(ledger: Ledger) -> None:
    entry = Entry("t-0-1", deliveries=[])
    await ledger.finish("n1", entry)
    assert await ledger.write("n1", Entry("t-0-1", attempts=1)) == entry


async def test_an_end_may_be_written_again_and_without_a_beginning(ledger: Ledger) -> None:
    await ledger.finish("n1", ended())
    await ledger.finish("n1", ended())
    assert await ledger.read("n1") == ended()


async def test_a_record_sent_again_takes_over_what_was_given_up_and_nothing_else(
    ledger: Ledger,
) -> None:
    given_up = Entry("t-0-1", attempts=1, deliveries=[DELIVERY])
    await ledger.finish("n1", given_up)
    again = Entry("t-0-9", attempts=1, replaces="t-0-1")
    assert await ledger.write("n1", again) is None
    assert await ledger.write("n1", again) is None
    other = Entry("t-0-12", attempts=1, replaces="t-0-1")
    assert await ledger.write("n1", other) == again
    # A worker that was frozen over the first one begins nothing.
    assert await ledger.write("n1", Entry("t-0-1", attempts=2)) == again


async def test_the_first_words_on_a_record_overwrite_none_but_their_own(ledger: Ledger) -> None:
    older = Entry("t-0-1", attempts=2, doubt_since=5, life="older")
    await ledger.write("n1", older)
    first = Entry("t-0-1", attempts=1, life="mine")
    assert await ledger.write("n1", first, is_first=True) == older
    assert await ledger.write("n1", first) is None
    # The answer was lost on its way, and whoever asked asks again.
    assert await ledger.write("n1", first, is_first=True) is None


async def test_nothing_is_begun_under_a_bar_and_what_stands_is_told_all_the_same(
    ledger: Ledger, redis: Redis
) -> None:
    bar = Bar("g:bar", "unsubscribed")
    await redis.set(bar.key, "1")
    if isinstance(ledger, MemoryLedger):
        ledger.bars.add(bar.key)
    assert await ledger.write("n1", Entry("t-0-1"), is_first=True, bar=bar) == bar
    assert await ledger.read("n1") is None
    assert await ledger.write("n2", Entry("t-0-1"), bar=Bar("g:other", "x")) is None
    assert await ledger.write("n2", Entry("t-0-9"), bar=bar) == Entry("t-0-1")


async def test_an_end_without_the_word_that_came_first_is_not_written(
    ledger: Ledger, redis: Redis
) -> None:
    word = LaterWord("delivered")
    await redis.set("g:word", msgspec.msgpack.encode(word))
    if isinstance(ledger, MemoryLedger):
        ledger.words["g:word"] = word
    begun = Entry("t-0-1", attempts=1)
    await ledger.write("n1", begun)
    for _ in range(2):
        assert await ledger.finish("n1", ended(), Claim("g:claim", b"x", 60, "g:word")) == word
        assert await ledger.read("n1") == begun
    assert await ledger.finish("n1", ended(), Claim("g:other", b"x", 60, "g:none")) is None
    assert await ledger.read("n1") == ended()


async def test_of_two_records_that_begin_at_the_same_moment_one_does(ledger: Ledger) -> None:
    for number in range(20):
        entries = [Entry(f"t-0-{offset}", attempts=1) for offset in range(5)]
        standing = await asyncio.gather(*[ledger.write(f"n{number}", entry) for entry in entries])
        (first,) = [entry for entry, known in zip(entries, standing, strict=True) if known is None]
        assert {known.coordinates for known in standing if known} == {first.coordinates}


entries = st.builds(
    Entry,
    coordinates=st.sampled_from(["t-0-1", "t-0-2"]),
    attempts=st.integers(0, 3),
    strikes=st.integers(0, 2),
    doubt_since=st.none() | st.integers(0, 2**53),
    not_before=st.none() | st.integers(0, 2**53),
    replaces=st.none() | st.sampled_from(["t-0-1", "t-0-3"]),
    life=st.sampled_from(["one", "two"]),
)
ends = st.builds(
    Entry,
    coordinates=st.sampled_from(["t-0-1", "t-0-2"]),
    attempts=st.integers(0, 3),
    deliveries=st.sampled_from([[], [DELIVERY], [DELIVERY, DELIVERY]]),
)
steps = st.lists(
    st.tuples(st.sampled_from(["first", "write"]), st.sampled_from("ab"), entries)
    | st.tuples(st.just("finish"), st.sampled_from("ab"), ends),
    max_size=8,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps)
def test_both_answer_the_same_to_whatever_is_asked(
    redis_url: str, history: list[tuple[str, str, Entry]]
) -> None:
    async def main() -> None:
        redis, memory = open_redis(redis_url), MemoryLedger()
        await redis.flushdb()
        real = RedisLedger(redis, "g")
        for verb, notification_id, entry in history:
            if verb != "finish":
                is_first = verb == "first"
                expected = await memory.write(notification_id, entry, is_first=is_first)
                assert await real.write(notification_id, entry, is_first=is_first) == expected
            else:
                await memory.finish(notification_id, entry)
                await real.finish(notification_id, entry)
        for notification_id in "ab":
            assert await real.read(notification_id) == await memory.read(notification_id)
        await redis.aclose()

    asyncio.run(main())


@pytest.fixture(params=["memory", "redis"])
async def away(request: pytest.FixtureRequest, valkey: Valkey) -> AsyncIterator[Ledger]:
    """Return one whose store is away; it is back afterwards."""
    if request.param == "memory":
        ledger = MemoryLedger()
        ledger.is_away = True
        yield ledger
        return
    redis = open_redis(valkey.redis_url)
    valkey.kill()
    yield RedisLedger(redis, "g")
    await redis.aclose()
    valkey.start()


async def test_a_store_that_is_away_says_so_to_every_question(away: Ledger) -> None:
    for asked in (
        away.read("n1"),
        away.write("n1", FULL),
        away.finish("n1", ended()),
    ):
        with pytest.raises(StoreAwayError):
            await asked

"""What the sender keeps in Redis, on a real server: receipts, subscriptions; the ledger's time.

What a ledger promises is in `test_ledger.py`.
"""

import asyncio

import pytest
from redis.asyncio import Redis

from agents.channel import Entry, LaterWord, StoreAwayError
from app.channels.wechat.receipts import Receipt, Receipts
from app.channels.wechat.subscriptions import REFUSAL_SECONDS, UNSUBSCRIBED_SECONDS, Subscriptions
from app.ledger import KEPT_SECONDS, RedisLedger
from app.local.valkey import Valkey
from app.redis_store import open_redis
from streams.records import Delivery

DELIVERY = Delivery("n1", "wechat", "a", "batch_completed", "sent", 1, "2019-01-30T15:52:10+08:00")
RECEIPT = Receipt("n1", "a", "batch_completed", 2, b"a")


async def test_the_ledger_forgets_after_the_topics_do(redis: Redis) -> None:
    ledger = RedisLedger(redis, "g")
    entry = Entry("t-0-1", attempts=1, deliveries=[DELIVERY])
    for write in (ledger.write, ledger.finish):
        await write("n1", entry)
        assert KEPT_SECONDS >= 7 * 86400
        assert KEPT_SECONDS - 60 <= await redis.ttl("g:ledger:n1") <= KEPT_SECONDS


async def test_two_installations_on_one_redis_know_nothing_of_each_other(redis: Redis) -> None:
    await RedisLedger(redis, "g").write("n1", Entry("t-0-1"))
    assert await RedisLedger(redis, "h").read("n1") is None


async def remember(redis: Redis, msgid: str) -> LaterWord | None:
    """End a message as the sender does: what is returned came first."""
    entry = Entry("t-0-1", attempts=2, deliveries=[DELIVERY])
    claim = Receipts(redis, "g").claim(msgid, RECEIPT)
    return await RedisLedger(redis, "g").finish("n1", entry, claim)


async def test_a_word_after_the_answer_finds_its_notification(redis: Redis) -> None:
    receipts = Receipts(redis, "g")
    assert await remember(redis, "9007199254740993") is None
    assert await receipts.match("9007199254740993", LaterWord("delivered")) == RECEIPT
    # WeChat asks again when our answer was late: the caller knows repeats.
    assert await receipts.match("9007199254740993", LaterWord("delivered")) == RECEIPT


async def test_a_word_before_the_answer_waits_for_it_and_is_published_once(redis: Redis) -> None:
    receipts = Receipts(redis, "g")
    word = LaterWord("undelivered", "failed:user block")
    assert await receipts.match("7", word) is None
    assert await remember(redis, "7") == word
    # The end is written with the word, or not at all.
    assert await RedisLedger(redis, "g").read("n1") is None
    # The sender crashed before it could commit, and asks again.
    assert await remember(redis, "7") == word
    # A repeat of the word is not the callback's to publish: the sender has it.
    assert await receipts.match("7", word) is None


async def test_of_a_word_and_an_answer_at_the_same_moment_exactly_one_sees_the_other(
    redis: Redis,
) -> None:
    receipts = Receipts(redis, "g")
    for number in range(100):
        remembered, matched = await asyncio.gather(
            remember(redis, str(number)),
            receipts.match(str(number), LaterWord("delivered")),
        )
        assert (remembered is None) != (matched is None)


async def test_an_unsubscribed_customer_stays_so_until_the_next_subscribe(redis: Redis) -> None:
    subscriptions = Subscriptions(redis, "g")
    assert not await subscriptions.is_unsubscribed("o1")
    await subscriptions.on_unsubscribe("o1", 5)
    assert await subscriptions.is_unsubscribed("o1")
    await subscriptions.on_refusal("o1")
    # For weeks, but not for good: the event that takes it back may have been missed.
    assert 86400 < await redis.ttl("g:wechat:unsubscribed:o1") <= UNSUBSCRIBED_SECONDS
    await subscriptions.on_subscribe("o1", 6)
    assert not await subscriptions.is_unsubscribed("o1")


async def test_an_unsubscribe_that_had_to_be_repeated_does_not_undo_a_later_subscribe(
    redis: Redis,
) -> None:
    subscriptions = Subscriptions(redis, "g")
    await subscriptions.on_subscribe("o1", 1_548_834_731_000_000)
    await subscriptions.on_unsubscribe("o1", 1_548_834_730_000_000)
    assert not await subscriptions.is_unsubscribed("o1")
    await subscriptions.on_unsubscribe("o1", 1_548_834_731_000_000)
    assert await subscriptions.is_unsubscribed("o1")


async def test_a_refusal_is_believed_for_a_short_while(redis: Redis) -> None:
    subscriptions = Subscriptions(redis, "g")
    await subscriptions.on_refusal("o1")
    assert 0 < await redis.ttl("g:wechat:unsubscribed:o1") <= REFUSAL_SECONDS == 3600


async def test_redis_going_away_and_coming_back_is_seen_at_once(valkey: Valkey) -> None:
    redis = open_redis(valkey.redis_url)
    ledger = RedisLedger(redis, "g")
    await ledger.write("n1", Entry("t-0-1", attempts=1))
    valkey.kill()
    with pytest.raises(StoreAwayError, match=r"^Redis: ConnectionError$"):
        await ledger.read("n1")
    with pytest.raises(StoreAwayError):
        await Receipts(redis, "g").match("7", LaterWord("delivered"))
    with pytest.raises(StoreAwayError):
        await Subscriptions(redis, "g").is_unsubscribed("o")
    valkey.start()
    assert await ledger.read("n1") == Entry("t-0-1", attempts=1)
    await redis.aclose()


async def test_more_askers_than_connections_wait_for_each_other(redis: Redis) -> None:
    ledger = RedisLedger(redis, "g")
    await asyncio.gather(*[ledger.write(f"n{i}", Entry("t-0-1")) for i in range(500)])
    assert len(await redis.keys("g:ledger:*")) == 500

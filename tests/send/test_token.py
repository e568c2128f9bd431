"""One token for all workers: storms, endings, refusals, and Redis away."""

import asyncio
from dataclasses import dataclass, field

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from agents.outcomes import Held
from app.channels.wechat.channel import build_client, build_tokens
from app.channels.wechat.client import WechatClient
from app.channels.wechat.token import TOKEN_SECONDS, Tokens
from app.channels.wechat.token_store import TokenRecord, TokenStore
from app.http import WHOLE_SECONDS
from app.local.valkey import Valkey
from app.redis_store import open_redis
from app.settings import load_settings
from app.web.view import counted
from streams.times import SECOND
from tests.installation import PATIENCE_SECONDS

START = 1_548_834_730 * SECOND


@dataclass
class TokenEndpoint:
    """Tencent's stable token, with the clock in the test's hand."""

    seconds: float = 0.0
    token: str = "token-1"
    lifetime_s: int = 7200
    is_forcing_useful: bool = True
    requests: list[bool] = field(default_factory=list)
    """`force_refresh` of each."""
    failure: dict[str, object] | None = None
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: nothing is answered."""

    def __post_init__(self) -> None:
        self.answers.set()

    def now(self) -> int:
        return START + int(self.seconds * SECOND)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = msgspec.json.decode(request.content)
        assert (body["appid"], body["secret"]) == ("wx-1", "SECRET")
        assert body["grant_type"] == "client_credential"
        self.requests.append(body["force_refresh"])
        await asyncio.sleep(0.01)
        await self.answers.wait()
        if self.failure is not None:
            return httpx.Response(200, json=self.failure)
        if body["force_refresh"] and self.is_forcing_useful:
            self.token += "-forced"
        return httpx.Response(200, json={"access_token": self.token, "expires_in": self.lifetime_s})

    def worker(self, redis: Redis, *, is_ahead_s: float = 0.0) -> Tokens:
        """Return the tokens of one worker, whose clock may be ahead."""
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        client = WechatClient(http, "https://wechat.test", "wx-1", "SECRET")
        return Tokens(
            client,
            TokenStore(redis, "wx-1"),
            now=lambda: self.now() + int(is_ahead_s * SECOND),
            random=lambda: 0.0,
        )


async def test_twenty_workers_starting_at_once_make_one_token_request(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    workers = [endpoint.worker(redis) for _ in range(20)]
    tokens = await asyncio.gather(*[worker.get() for worker in workers for _ in range(5)])
    assert set(tokens) == {"token-1"}
    assert endpoint.requests == [False]


async def test_a_token_is_renewed_by_one_of_them_in_its_last_five_minutes(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    workers = [endpoint.worker(redis) for _ in range(5)]
    await asyncio.gather(*[worker.get() for worker in workers])
    endpoint.seconds, endpoint.token = 6899, "token-2"
    assert {await worker.get() for worker in workers} == {"token-1"}
    endpoint.seconds = 6900
    endpoint.answers.clear()
    # Nobody waits for it: the one that is known serves meanwhile.
    async with asyncio.timeout(WHOLE_SECONDS / 2):
        assert set(await asyncio.gather(*[worker.get() for worker in workers])) == {"token-1"}
    endpoint.answers.set()
    await until(workers, "token-2", endpoint)
    assert endpoint.requests == [False, False]
    await end(*workers)


async def replaced(worker: Tokens, token: str) -> str | Held:
    """Return what is given out once WeChat refused a token."""
    worker.refuse(token)
    return await worker.get()


async def end(*workers: Tokens) -> None:
    """End what is still asked for in the background, before Redis is closed."""
    renewals = [worker.renewal for worker in workers if worker.renewal is not None]
    for renewal in renewals:
        renewal.cancel()
    await asyncio.gather(*renewals, return_exceptions=True)


async def until(workers: list[Tokens], token: str, endpoint: TokenEndpoint) -> None:
    """Let time pass until all of them give out a token. A token outlives this wait."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while {await worker.get() for worker in workers} != {token}:
            endpoint.seconds += 1
            await asyncio.sleep(0.02)


async def test_the_metric_tells_the_life_that_is_left_also_while_nothing_is_sent(
    redis: Redis,
) -> None:
    endpoint = TokenEndpoint()
    tokens = endpoint.worker(redis)
    assert remaining_s() == 0
    await tokens.get()
    endpoint.seconds = 7000
    assert remaining_s() == 200
    endpoint.seconds = 8000
    assert remaining_s() == 0


def remaining_s() -> float:
    [(_, value)] = counted(TOKEN_SECONDS)
    return value


async def test_a_refused_token_is_replaced_once_for_all(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    workers = [endpoint.worker(redis) for _ in range(5)]
    await asyncio.gather(*[worker.get() for worker in workers])
    endpoint.token = "token-2"
    asked = [replaced(worker, "token-1") for worker in workers for _ in range(10)]
    assert set(await asyncio.gather(*asked)) == {"token-2"}
    assert endpoint.requests == [False, False]


async def test_a_token_that_is_refused_and_given_out_again_is_forced_once(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    worker = endpoint.worker(redis)
    await worker.get()
    assert await replaced(worker, "token-1") == "token-1-forced"
    assert endpoint.requests == [False, False, True]


async def test_forcing_is_limited_for_all_workers_together_and_then_the_channel_is_held(
    redis: Redis,
) -> None:
    endpoint = TokenEndpoint(is_forcing_useful=False)
    workers = [endpoint.worker(redis) for _ in range(3)]
    await asyncio.gather(*[worker.get() for worker in workers])
    outcomes = [await replaced(worker, "token-1") for worker in workers]
    assert all(isinstance(outcome, Held) for outcome in outcomes)
    assert endpoint.requests.count(True) == 1


async def test_a_late_answer_does_not_overwrite_a_newer_token(redis: Redis) -> None:
    store = TokenStore(redis, "wx-1")
    newer = TokenRecord("newer", START, START + 7200 * SECOND, 1)
    assert await store.write(newer, 7200)
    assert not await store.write(TokenRecord("late", START, START + 7200 * SECOND, 1), 7200)
    assert await store.read() == newer
    assert await store.write(TokenRecord("next", START, START + 7200 * SECOND, 2), 7200)


async def test_a_lock_is_given_back_by_its_owner_only(redis: Redis) -> None:
    store = TokenStore(redis, "wx-1")
    assert await store.lock("one")
    assert not await store.lock("two")
    await store.unlock("two")
    assert not await store.lock("two")
    await store.unlock("one")
    assert await store.lock("two")


async def test_without_redis_the_last_known_token_serves(valkey: Valkey) -> None:
    redis = open_redis(valkey.redis_url)
    await redis.flushdb()
    endpoint = TokenEndpoint()
    worker = endpoint.worker(redis)
    assert await worker.get() == "token-1"
    valkey.kill()
    try:
        endpoint.seconds = 7000  # in its last five minutes
        assert await worker.get() == "token-1"
        assert endpoint.requests == [False]
        endpoint.seconds, endpoint.token = 7300, "token-2"
        got = await asyncio.gather(*[worker.get() for _ in range(10)])
        assert set(got) == {"token-2"}
        assert endpoint.requests == [False, False]
    finally:
        valkey.start()
        await redis.aclose()


async def settled(tokens: Tokens) -> str | Held:
    """Return what is given out once a renewal that this may begin is over."""
    await tokens.get()
    if tokens.renewal is not None:
        await asyncio.wait([tokens.renewal])
    return await tokens.get()


async def test_a_token_that_cannot_be_renewed_serves_to_its_end(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    worker = endpoint.worker(redis)
    await worker.get()
    endpoint.seconds, endpoint.failure = 7000, {"errcode": -1, "errmsg": "busy"}
    assert await settled(worker) == "token-1"
    endpoint.seconds = 7201
    assert await worker.get() == Held("token: busy", 2, -1)


async def test_a_renewal_that_hangs_holds_nobody_up_while_the_token_lives(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    worker = endpoint.worker(redis)
    await worker.get()
    endpoint.seconds = 7000
    endpoint.answers.clear()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(endpoint.requests) < 2:
            assert await worker.get() == "token-1"
            await asyncio.sleep(0.01)
    assert {await worker.get() for _ in range(1000)} == {"token-1"}
    assert endpoint.requests == [False, False]
    await end(worker)


@pytest.mark.parametrize("failure", [{"errcode": -1, "errmsg": "busy"}, {"errcode": 45011}])
async def test_workers_without_a_token_ask_ever_more_seldom_and_together(
    redis: Redis, failure: dict[str, object]
) -> None:
    endpoint = TokenEndpoint(failure=failure)
    workers = [endpoint.worker(redis) for _ in range(3)]
    for second in range(1200):  # twenty minutes
        endpoint.seconds = second
        for worker in workers:
            held = await worker.get()
            assert isinstance(held, Held)
            assert held.error_code == failure["errcode"]
            assert held.for_s <= 60
    assert len(endpoint.requests) <= 6 + 1200 / 60
    endpoint.failure = None
    endpoint.seconds += 60
    assert {await worker.get() for worker in workers} == {"token-1"}


async def test_a_long_hold_is_asked_about_by_whoever_has_mended_it(redis: Redis) -> None:
    endpoint = TokenEndpoint(failure={"errcode": 89506, "errmsg": "refused twice"})
    assert await endpoint.worker(redis).get() == Held("token: refused twice", 86400, 89506)
    endpoint.failure = None
    assert isinstance(await endpoint.worker(redis).get(), Held)
    # Restarted a minute later, or by `dialwatch doctor` at once.
    endpoint.seconds = 61
    assert await endpoint.worker(redis).get() == "token-1"


async def test_a_wrong_secret_holds_the_channel_and_is_not_told(redis: Redis) -> None:
    endpoint = TokenEndpoint(
        failure={"errcode": 40125, "errmsg": "invalid appsecret SECRET rid: 1-2"}
    )
    outcome = await endpoint.worker(redis).get()
    assert outcome == Held("token: invalid appsecret ***", 60, 40125)


async def test_a_cancelled_asker_leaves_the_renewal_to_the_others(redis: Redis) -> None:
    endpoint = TokenEndpoint()
    endpoint.answers.clear()
    worker = endpoint.worker(redis)
    asking = asyncio.create_task(worker.get())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not endpoint.requests:  # noqa: ASYNC110 (one test's question)
            await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    endpoint.answers.set()
    assert await asyncio.wait_for(worker.get(), PATIENCE_SECONDS) == "token-1"
    assert endpoint.requests == [False]


@pytest.mark.parametrize("is_ahead_s", [3600.0, 86_400.0])
async def test_a_worker_whose_clock_is_ahead_holds_nobody_up(
    redis: Redis, is_ahead_s: float
) -> None:
    endpoint = TokenEndpoint(failure={"errcode": 89507, "errmsg": "refused"})
    ahead = await endpoint.worker(redis, is_ahead_s=is_ahead_s).get()
    assert ahead == Held("token: refused", 3600, 89507)
    healthy = endpoint.worker(redis)
    assert await healthy.get() == Held("token: refused", 3600, 89507)
    # What it wrote itself it heeds, a whole minute.
    assert isinstance(await healthy.get(), Held)
    assert len(endpoint.requests) == 2
    endpoint.failure = None
    endpoint.seconds = 61
    assert await healthy.get() == "token-1"


async def test_a_clock_that_is_a_little_ahead_is_no_reason_to_ask(redis: Redis) -> None:
    endpoint = TokenEndpoint(failure={"errcode": 40164, "errmsg": "address"})
    assert isinstance(await endpoint.worker(redis, is_ahead_s=2.0).get(), Held)
    held = await endpoint.worker(redis).get()
    assert isinstance(held, Held)
    assert held.for_s == pytest.approx(62, abs=0.1)
    assert len(endpoint.requests) == 1


async def test_a_clock_that_is_set_back_holds_up_neither_asking_nor_renewing(redis: Redis) -> None:
    endpoint = TokenEndpoint(failure={"errcode": -1, "errmsg": "busy"}, seconds=86_400.0)
    worker = endpoint.worker(redis)
    assert isinstance(await worker.get(), Held)
    endpoint.seconds, endpoint.failure = 0.0, None
    assert await worker.get() == "token-1"
    # The same where another worker was renewing, and this one was to look again a second later.
    store = TokenStore(redis, "wx-1")
    endpoint.seconds = 7000.0
    assert await store.lock("another")
    assert await settled(worker) == "token-1"
    await store.unlock("another")
    endpoint.seconds, endpoint.token = 6950.0, "token-2"
    assert await settled(worker) == "token-2"


async def test_the_operators_rows_count_for_the_token_too(redis: Redis) -> None:
    endpoint = TokenEndpoint(failure={"errcode": 40164, "errmsg": "address"})
    settings = load_settings(
        wechat_app_id="wx-1", wechat_app_secret="SECRET", wechat_rules="40164=hold:700"
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(endpoint)) as http:
        tokens = build_tokens(settings, build_client(settings, http), redis)
        held = await tokens.get()
    assert isinstance(held, Held)
    assert (held.reason, held.error_code) == ("token: address", 40164)
    assert 600 < held.for_s <= 700  # so much is left


async def test_a_token_without_a_life_is_none(redis: Redis) -> None:
    # Else it would be asked for again at once, and for ever.
    endpoint = TokenEndpoint(lifetime_s=0)
    worker = endpoint.worker(redis)
    for _ in range(3):
        assert isinstance(await worker.get(), Held)
    assert len(endpoint.requests) == 1


async def test_a_token_refused_while_it_was_being_renewed_is_not_given_out_again(
    redis: Redis,
) -> None:
    endpoint = TokenEndpoint()
    worker = endpoint.worker(redis)
    await worker.get()
    endpoint.seconds = 6950
    endpoint.answers.clear()
    assert await worker.get() == "token-1"  # and in the background it is asked for
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(endpoint.requests) < 2:
            assert await worker.get() == "token-1"
            await asyncio.sleep(0.01)
    worker.refuse("token-1")
    endpoint.answers.set()
    asking = asyncio.create_task(worker.get())
    while not asking.done():
        # It is known a little before the renewal ends.
        assert worker.current in {None, "token-1-forced"}
        await asyncio.sleep(0.01)
    assert await asking == worker.current == "token-1-forced"


async def test_a_token_that_could_not_be_replaced_is_tried_again_after_the_hold(
    redis: Redis,
) -> None:
    endpoint = TokenEndpoint(is_forcing_useful=False)
    worker = endpoint.worker(redis)
    await worker.get()
    assert isinstance(await replaced(worker, "token-1"), Held)
    # WeChat's own trouble may be over, and it still gives out that one.
    assert await worker.get() == "token-1"

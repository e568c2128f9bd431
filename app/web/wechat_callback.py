"""WeChat's callback on the web server: check a request, publish its event, answer.

WeChat sends an event up to three times until it is answered. Until the event is in Kafka and
matched with its receipt the answer is 503, so each step may be done twice.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Literal, Protocol, cast

from aiohttp import web
from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from agents.channel import LaterWord, StoreAwayError
from agents.clock import wall_clock
from agents.metrics import DELIVERIES
from app.channels.wechat.callback import (
    MOST_BODY_BYTES,
    WINDOW_SECONDS,
    Console,
    Heard,
    RefusedRequest,
    hear,
    refuse_early,
    request_name,
    verify_address,
)
from app.channels.wechat.events import (
    EventError,
    field_of,
    is_time,
    job_error,
    msgid_of,
    says_follows,
    to_event,
)
from app.channels.wechat.receipts import Receipts
from app.channels.wechat.subscriptions import Subscriptions
from app.redis_store import store_errors
from app.settings import Settings
from app.web.listener import read_body
from streams.records import Delivery, WechatEvent, encode
from streams.times import SECOND, format_moment, parse_instant
from streams.topics import Topics

log = logging.getLogger(__name__)

PATH = "/receive/wechat/callback"
# How long handled requests are remembered. Later a repeat is refused for its timestamp.
_DONE_SECONDS = 2 * WINDOW_SECONDS
# How long a request counts as being handled; renewed while it is. Shorter than the 5 s after which
# WeChat sends again.
_BEGUN_SECONDS = 4
_RENEW_SECONDS = 1.0
_BEGUN, _DONE = b"begun:", b"done:"
_ADDRESS_CHECK = b"the check of the address"

# Renews only marks of what is being handled: it may be done by now, and that mark is kept longer.
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


class _BeingHandledError(Exception):
    """Another request with the same event is being handled at this moment."""


class Publish(Protocol):
    """Publishes a record; returns when Kafka has it on all in-sync replicas. Raises KafkaError."""

    def __call__(self, topic: str, key: bytes | None, value: bytes) -> Awaitable[None]: ...


def add_callback_routes(
    app: web.Application, *, settings: Settings, topics: Topics, publish: Publish, redis: Redis
) -> None:
    """Add the callback's paths to a web application."""
    callback = _Callback(settings, topics, publish, redis)
    app.router.add_get(PATH, callback.verify)
    app.router.add_post(PATH, callback.receive)


class _Callback:
    def __init__(self, settings: Settings, topics: Topics, publish: Publish, redis: Redis) -> None:
        self._console = Console.of(settings)
        self._settings = settings
        self._topics = topics
        self._publish = publish
        self._redis = redis
        self._receipts = Receipts(redis, settings.group)
        self._subscriptions = Subscriptions(redis, settings.group)

    async def verify(self, request: web.Request) -> web.Response:
        echo = verify_address(self._console, request.query, time.time())
        if isinstance(echo, RefusedRequest):
            return _refusal(echo)
        # The address check works without Redis too, since it changes nothing.
        with suppress(StoreAwayError), store_errors():
            key = self._key("request", request_name(request.query))
            await self._redis.set(key, _DONE + _ADDRESS_CHECK, ex=_DONE_SECONDS, nx=True)
        return web.Response(text=echo)

    async def receive(self, request: web.Request) -> web.Response:
        """1. Refuse a request that isn't WeChat's, as early as possible. 2. Answer a repeat, of a
        request or of an event in another request, like the first one. 3. Publish the event and
        match it with its receipt. 4. Only then note that it is done."""
        now_s = time.time()
        refused = refuse_early(self._console, request.query, now_s)
        if refused is not None:
            return _refusal(refused)
        body = await read_body(request, MOST_BODY_BYTES)
        if body is None:
            return _refusal(RefusedRequest("the body is longer than 64 KiB"))
        heard = hear(self._console, request.query, body, now_s)
        if isinstance(heard, RefusedRequest):
            return _refusal(heard)
        try:
            event = to_event(heard.fields, self._console.app_id, self._settings.zone)
            if not await self._handle_once(event, heard):
                return _refusal(RefusedRequest("the signature was used for another body"))
        except EventError as error:
            return _refusal(RefusedRequest(str(error)))
        except (StoreAwayError, KafkaError, _BeingHandledError) as error:
            log.warning("a callback must be sent again by WeChat: %s", type(error).__name__)
            return web.Response(text="try again", status=503)
        return web.Response(text="success")

    async def _handle_once(self, event: WechatEvent | None, heard: Heard) -> bool:
        """Handle an event once. Return True when that is done, now or before; False: the request's
        signature was used for another content.

        `event` None: a person's message, of which nothing is published.
        Raises _BeingHandledError where another request with the same event is being handled.
        """
        request = self._key("request", heard.request)
        said = heard.said.encode()
        with store_errors():
            if not await self._begin(request, said):
                standing = await self._redis.get(request)
                if standing == _DONE + said:
                    return True
                if standing is not None and standing != _BEGUN + said:
                    return False
                raise _BeingHandledError
        begun = {request: said}
        try:
            async with self._kept(begun):
                if event is None:
                    await self._hear_person(heard)
                elif await self._is_new(event, begun):
                    await self._handle(event)
            with store_errors():
                async with self._redis.pipeline(transaction=True) as pipe:
                    for key, what in begun.items():
                        pipe.set(key, _DONE + what, ex=_DONE_SECONDS)
                    await pipe.execute()
        except BaseException:
            # WeChat may send again at once, and that request must not be taken for a repeat.
            with suppress(StoreAwayError), store_errors():
                await self._redis.delete(*begun)
            raise
        return True

    async def _is_new(self, event: WechatEvent, begun: dict[str, bytes]) -> bool:
        """Is this event new, not brought by another request before? Then note it in `begun`."""
        key = self._key("event", event.event_id)
        with store_errors():
            if await self._begin(key):
                begun[key] = b""
                return True
            if await self._redis.get(key) == _DONE:
                return False
        raise _BeingHandledError

    @asynccontextmanager
    async def _kept(self, begun: Mapping[str, bytes]) -> AsyncIterator[None]:
        """Renew the marks of what is being handled, while the context is open. Kafka may take
        longer than WeChat waits, and WeChat's next request must not begin the same again."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEW_SECONDS)
                for key, said in list(begun.items()):
                    with suppress(StoreAwayError), store_errors():
                        arguments = (key, _BEGUN + said, str(_BEGUN_SECONDS))
                        await cast("Awaitable[int]", self._redis.eval(_RENEW, 1, *arguments))

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()

    async def _begin(self, key: str, said: bytes = b"") -> bool:
        return bool(await self._redis.set(key, _BEGUN + said, nx=True, ex=_BEGUN_SECONDS))

    async def _handle(self, event: WechatEvent) -> None:
        await self._publish(self._topics.wechat_events, event.openid.encode(), encode(event))
        if event.event.lower() == "templatesendjobfinish":
            await self._finish_job(event)
        follows = says_follows(event.event, event.fields)
        if follows is False:
            await self._subscriptions.on_unsubscribe(event.openid, parse_instant(event.at))
        elif follows:
            await self._subscriptions.on_subscribe(event.openid, parse_instant(event.at))

    async def _hear_person(self, heard: Heard) -> None:
        """Note that the person follows the account: only followers can write. Nothing else is done
        with a person's message."""
        openid = field_of(heard.fields, "FromUserName")
        created = field_of(heard.fields, "CreateTime")
        if openid and is_time(created):
            await self._subscriptions.on_subscribe(openid, int(created) * SECOND)

    async def _finish_job(self, event: WechatEvent) -> None:
        msgid = msgid_of(event.fields)
        if not msgid or msgid == "0":
            return
        error = job_error(event.fields.get("Status", ""))
        status: Literal["delivered", "undelivered"] = (
            "delivered" if error is None else "undelivered"
        )
        receipt = await self._receipts.match(msgid, LaterWord(status, error))
        if receipt is None:
            return
        delivery = Delivery(
            notification_id=receipt.notification_id,
            channel="wechat",
            account_id=receipt.account_id,
            scenario=receipt.scenario,
            status=status,
            attempts=receipt.attempts,
            at=format_moment(wall_clock(), self._settings.zone),
            provider_id=msgid,
            error=error,
        )
        await self._publish(self._topics.deliveries, receipt.key, encode(delivery))
        DELIVERIES.labels("wechat", status, "").inc()

    def _key(self, kind: str, name: str) -> str:
        digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{self._settings.group}:wechat:{kind}:{digest}"


def _refusal(refused: RefusedRequest) -> web.Response:
    log.info("a callback was refused: %s", refused.reason)
    return web.Response(text="refused", status=403)

"""Who doesn't follow the official account: said by WeChat's events, or by its refusals."""

from redis.asyncio import Redis

from app.store import store_errors

# A refusal may be a passing fault of WeChat's, and no event takes it back.
_REFUSAL_SECONDS = 86400


class Subscriptions:
    """Unsubscribed openids of one installation in Redis. Every method may raise StoreAwayError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix`: the group's name."""
        self._redis = redis
        self._prefix = prefix

    async def on_unsubscribe(self, openid: str) -> None:
        """Send this customer nothing until the next subscribe."""
        with store_errors():
            await self._redis.set(self._key(openid), b"event")

    async def on_subscribe(self, openid: str) -> None:
        """Send to this customer again."""
        with store_errors():
            await self._redis.delete(self._key(openid))

    async def on_refusal(self, openid: str) -> None:
        """WeChat says that this customer doesn't follow: send nothing for a day."""
        with store_errors():
            await self._redis.set(self._key(openid), b"refusal", ex=_REFUSAL_SECONDS, nx=True)

    async def is_unsubscribed(self, openid: str) -> bool:
        """Whether messages to this customer are skipped."""
        with store_errors():
            return bool(await self._redis.exists(self._key(openid)))

    def _key(self, openid: str) -> str:
        return f"{self._prefix}:wechat:unsubscribed:{openid}"

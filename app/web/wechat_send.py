"""`POST /wechat/send`: with it other services of the platform send a template message.

Follows their `SendMsgReqVO`. It is answered when the command is in Kafka; `deliveries` later says
what became of it.
"""

import asyncio
import logging
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from msgspec import Meta, Struct

from agents.clock import wall_clock
from app.settings import Settings
from app.web.access import has_bearer
from app.web.listener import read_body
from app.web.wechat_callback import Publish
from streams.decoding import InvalidRecordError, decode_notification, decode_value
from streams.records import Notification, encode
from streams.times import format_instant
from streams.topics import Topics

log = logging.getLogger(__name__)

PATH = "/wechat/send"
SCENARIO = "direct"
MOST_BODY_BYTES = 1 << 20
_LONGEST_KEY = 200
_MOST_DATA_BYTES = 65_536
# So that the answer comes within 10 s, with reading the request and writing the answer.
PUBLISH_SECONDS = 8.0
_UNKNOWN = (
    "Kafka doesn't answer: whether the message was taken is unknown, repeat with the same "
    "Idempotency-Key"
)
_OPENAPI = Path(__file__).parent / "openapi.json"

_IN_A_WORD = r"^[\x21-\x7e]+$(?!\n)"
OpenId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_IN_A_WORD)]
TemplateId = Annotated[str, Meta(min_length=1, max_length=512, pattern=_IN_A_WORD)]
Address = Annotated[str, Meta(max_length=2048)]


class SendRequest(Struct):
    """What a service posts; unknown fields are ignored."""

    openID: OpenId
    templateId: TemplateId
    data: dict[str, str] | None = None
    url: Address | None = None
    appId: Annotated[str, Meta(max_length=512)] | None = None
    pagePath: Address | None = None


_decoder = msgspec.json.Decoder(SendRequest)


def add_sending_routes(
    app: web.Application, *, settings: Settings, topics: Topics, publish: Publish
) -> None:
    """Add the paths of the sending service and of its description to a web application."""

    async def send(request: web.Request) -> web.Response:
        refused = _refusal(request, settings)
        if refused is not None:
            return refused
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 0 < len(key) <= _LONGEST_KEY:
            return _answer(400, f"Idempotency-Key: must have 1 to {_LONGEST_KEY} characters")
        try:
            body = await read_body(request, MOST_BODY_BYTES)
            if body is None:
                return _answer(413, "the body is too long")
            wanted: SendRequest = decode_value(_decoder, body)
        except InvalidRecordError as error:
            return _answer(400, str(error))
        except web.HTTPRequestTimeout:
            return _answer(408, "the body didn't come in time")
        if _data_bytes(wanted) > _MOST_DATA_BYTES:
            return _answer(413, f"data: has more than {_MOST_DATA_BYTES} bytes")
        command = _command(wanted, key, settings)
        record_key, value = wanted.openID.encode(), encode(command)
        try:
            decode_notification(record_key, value)
            async with asyncio.timeout(PUBLISH_SECONDS):
                await publish(topics.notifications, record_key, value)
        except InvalidRecordError as error:
            return _answer(400, str(error))
        except (MessageSizeTooLargeError, RecordListTooLargeError):
            return _answer(413, "the body is longer than a record of Kafka's may be")
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "a command could not be published: %s",
                type(error).__name__,
                extra={
                    "topic": topics.notifications,
                    "notification_id": command.notification_id,
                },
            )
            return _answer(503, _UNKNOWN)
        return web.json_response({"code": 0, "msg": "ok", "data": command.notification_id})

    async def describe(request: web.Request) -> web.FileResponse:
        return web.FileResponse(_OPENAPI)

    app.router.add_post(PATH, send)
    app.router.add_get("/openapi.json", describe)


def _command(wanted: SendRequest, key: str | None, settings: Settings) -> Notification:
    # Two services may use the same key: so the recipient is a part of what identifies the message.
    cause = f"{wanted.openID}\x1f{key}" if key is not None else secrets.token_hex(16)
    digest = blake2b(cause.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Notification(
        notification_id=digest,
        scenario=SCENARIO,
        account_id=None,
        channel="wechat",
        occurred_at=format_instant(wall_clock(), settings.zone),
        title="",
        content="",
        page=None,
        cause={},
        openid=wanted.openID,
        template_id=wanted.templateId,
        data=wanted.data or {},
        url=wanted.url or None,
        app_id=wanted.appId or None,
        page_path=wanted.pagePath or None,
    )


def _data_bytes(wanted: SendRequest) -> int:
    fields = (wanted.data or {}).items()
    return sum(len(text.encode("utf-8", "surrogatepass")) for pair in fields for text in pair)


def _refusal(request: web.Request, settings: Settings) -> web.Response | None:
    if settings.web_token is None:
        return _answer(403, "this service is off: set DIALWATCH_WEB_TOKEN")
    if has_bearer(request, settings.web_token):
        return None
    return _answer(401, "Authorization: Bearer with DIALWATCH_WEB_TOKEN is needed")


def _answer(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "msg": message}, status=status)

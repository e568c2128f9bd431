"""The worker's web server: health, readiness, metrics, the page for people, and the services.

It starts before Kafka is connected and stops last, so that it can always show the worker's state.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

from aiohttp import web
from aiokafka.errors import KafkaError
from jinja2 import Environment, FileSystemLoader, select_autoescape
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from redis.asyncio import Redis

from agents.metrics import DEAD_LETTERS, DELIVERIES, NOTIFICATIONS
from app.kafka.publisher import Publisher
from app.web.access import refusal
from app.web.history import SAMPLE_SECONDS
from app.web.listener import Listener
from app.web.numbers import duration, matrix, ranges
from app.web.recent import DeliveryLine, LetterLine, read_recent
from app.web.view import WorkerView, counted
from app.web.wechat_callback import add_callback_routes
from app.web.wechat_send import add_sending_routes
from streams import metrics

log = logging.getLogger(__name__)

FILTERS = ("scenario", "channel", "status")

_FOLDER = Path(__file__).parent
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class WebServer:
    """One server on one port."""

    def __init__(self, view: WorkerView, publisher: Publisher, redis: Redis) -> None:
        self._view = view
        settings = view.settings
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/", self._page)
        app.router.add_get("/recent", self._recent)
        for name in ("page.css", "page.js"):
            app.router.add_get(f"/{name}", _file(name))
        topics = settings.topics
        add_callback_routes(
            app, settings=settings, topics=topics, publish=publisher.publish, redis=redis
        )
        add_sending_routes(app, settings=settings, topics=topics, publish=publisher.publish)
        app.on_response_prepare.append(_add_headers)
        self._listener = Listener(
            app, host=settings.web_host, port=settings.web_port, setting="web"
        )
        pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=select_autoescape())
        self._page_template = pages.get_template("page.html")
        self._recent_template = pages.get_template("recent.html")
        self._sampling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises CommandError where the port is taken or the host isn't this machine's."""
        log.info("the page is at http://%s/", await self._listener.start())
        self._sampling = asyncio.create_task(self._sample())

    async def stop(self) -> None:
        """Finish the requests under way, then close the port."""
        if self._sampling is not None:
            self._sampling.cancel()
        await self._listener.stop()

    async def _health(self, request: web.Request) -> web.Response:
        stuck = self._view.stuck()
        return web.json_response({"status": stuck or "ok"}, status=503 if stuck else 200)

    async def _ready(self, request: web.Request) -> web.Response:
        reason = self._view.not_ready()
        body = {
            "ready": reason is None,
            "reason": reason,
            "partitions": self._view.partitions(),
            "holds": [hold._asdict() for hold in self._view.holds()],
        }
        return web.json_response(body, status=503 if reason else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        self._view.lags()
        metrics.READY.set(self._view.not_ready() is None)
        body = generate_latest(REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _page(self, request: web.Request) -> web.Response:
        view = self._view
        page = self._page_template.render(
            view=view,
            ranges=ranges,
            now=datetime.now(view.settings.zone),
            uptime=duration(time.monotonic() - view.began),
            noticed=matrix(counted(NOTIFICATIONS)),
            deliveries=[row for row in counted(DELIVERIES) if row[1]],
            dead_letters=[row for row in counted(DEAD_LETTERS) if row[1]],
            rebalances=view.rebalances(),
        )
        return web.Response(text=page, content_type="text/html")

    async def _recent(self, request: web.Request) -> web.Response:
        settings = self._view.settings
        refused = refusal(request, settings.web_token, settings.web_host)
        if refused is not None:
            return refused
        view = self._view
        wanted = {name: request.query[name] for name in FILTERS if name in request.query}
        deliveries: list[DeliveryLine] = []
        letters: list[LetterLine] = []
        trouble = view.not_ready()
        if view.worker is not None:
            try:
                deliveries, letters = await read_recent(
                    view.settings.kafka_client_options(),
                    view.worker.topics,
                    view.settings.zone,
                    wanted,
                )
            except (KafkaError, OSError) as error:
                trouble = f"Kafka doesn't answer ({type(error).__name__})"
        page = self._recent_template.render(
            view=view,
            now=datetime.now(view.settings.zone),
            wanted=wanted,
            deliveries=deliveries,
            letters=letters,
            trouble=trouble,
        )
        return web.Response(text=page, content_type="text/html")

    async def _sample(self) -> None:
        while True:
            self._view.sample()
            await asyncio.sleep(SAMPLE_SECONDS)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _file(name: str) -> Callable[[web.Request], Awaitable[web.FileResponse]]:
    async def serve(request: web.Request) -> web.FileResponse:
        return web.FileResponse(_FOLDER / name)

    return serve

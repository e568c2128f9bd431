"""The worker's web server: health, readiness, metrics, the page for people, and the services.

It starts before Kafka is there and stops last, so that it can always say how things are.
"""

import asyncio
import time
from pathlib import Path

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, select_autoescape
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from redis.asyncio import Redis

from app.errors import CommandError
from app.publisher import Publisher
from app.web.callback import add_callback_routes
from app.web.sending import add_sending_routes
from app.web.view import WorkerView

STOP_SECONDS = 2.0
# WeChat's callback refuses more than 64 KiB itself; this only bounds what is read at all.
MOST_BODY_BYTES = 1 << 20

_FOLDER = Path(__file__).parent
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class WebServer:
    """One server on one port."""

    def __init__(self, view: WorkerView, publisher: Publisher, redis: Redis) -> None:
        self._view = view
        settings = view.settings
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/", self._page)
        topics = settings.topics
        add_callback_routes(
            app, settings=settings, topics=topics, publish=publisher.publish, redis=redis
        )
        add_sending_routes(app, settings=settings, topics=topics, publish=publisher.publish)
        app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
        pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=select_autoescape())
        self._template = pages.get_template("page.html")

    async def start(self) -> None:
        """Listen. Raises CommandError where the port is taken or the host isn't ours."""
        settings = self._view.settings
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.web_host.strip("[]"), settings.web_port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            reason = (error.strerror or str(error)).split("] ")[-1]
            raise CommandError(
                f"can't listen on {settings.web_host}:{settings.web_port} ({reason}): end what "
                "listens there, or set DIALWATCH_WEB_HOST and DIALWATCH_WEB_PORT"
            ) from None

    async def stop(self) -> None:
        """Let go of the port; requests under way are finished first."""
        await self._runner.cleanup()

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
        body = await asyncio.to_thread(generate_latest, REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _page(self, request: web.Request) -> web.Response:
        view = self._view
        page = self._template.render(
            version=view.version,
            uptime_s=int(time.monotonic() - view.began),
            group=view.settings.group,
            zone=view.settings.timezone,
            not_ready=view.not_ready(),
            warnings=view.warnings(),
            partitions=view.partitions(),
            holds=view.holds(),
            lags=view.lags(),
            counts=_counts(),
            settings=view.settings.shown(),
        )
        return web.Response(text=page, content_type="text/html")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _counts() -> dict[str, list[tuple[tuple[str, ...], int]]]:
    """Return the counters that people ask for, with their labels' values."""
    wanted = {
        "dialwatch_notifications": ("scenario", "channel"),
        "dialwatch_deliveries": ("channel", "status", "reason"),
        "dialwatch_dead_letters": ("topic", "reason"),
    }
    found: dict[str, list[tuple[tuple[str, ...], int]]] = {name: [] for name in wanted}
    for family in REGISTRY.collect():
        for sample in family.samples:
            if family.name in wanted and sample.name.endswith("_total"):
                values = tuple(sample.labels[label] for label in wanted[family.name])
                found[family.name].append((values, int(sample.value)))
    return {name: sorted(rows) for name, rows in found.items()}

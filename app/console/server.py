"""The console's web server: pages and JSON under the same paths, health, readiness, metrics.

A page is the JSON of its path, rendered. The access rule is checked before anything is looked up. A
wrong request gets one clear line, as a page or as JSON.
"""

import asyncio
import csv
import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiokafka.errors import KafkaError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.console import metrics
from app.console.indexer import Indexer
from app.console.lookups import KafkaLookups
from app.console.pages import Pages
from app.console.queries import MOST_ROWS, BadCursorError, Filters, parse_cursor, parse_listed
from app.console.views import Views
from app.errors import CommandError, KafkaAwayError, SettingsError
from app.ranges import parse_range
from app.settings import Settings
from app.web.access import refusal
from app.web.listener import Listener, read_body

log = logging.getLogger(__name__)

Answer = Awaitable[web.StreamResponse]

USUAL_ROWS = 100
_MOST_BODY = 1 << 20
_MOST_LETTERS = 10_000
_DOWNLOAD_ROWS = 1000
_OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FIELDS = (
    "notification_id", "account_id", "scenario", "channel", "status", "error", "error_code",
    "attempts", "at", "occurred_at", "title",
)  # fmt: skip
_CHANNELS = ("inbox", "wechat", "sms")
_STATUSES = ("sent", "delivered", "undelivered", "skipped", "failed")


class WrongRequestError(Exception):
    """The request's parameters are wrong; the text says how."""


class NotFoundError(Exception):
    """There is nothing with that name."""


class ConsoleServer:
    """One server on one port."""

    def __init__(
        self, settings: Settings, indexer: Indexer, kafka: KafkaLookups, views: Views
    ) -> None:
        self._settings = settings
        self._indexer = indexer
        self._kafka = kafka
        self._views = views
        self._pages = Pages(settings, indexer)
        metrics.expect_topics(settings.topics)
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(_add_headers)
        routes = app.router
        routes.add_get("/health", self._health)
        routes.add_get("/ready", self._ready)
        routes.add_get("/metrics", self._metrics)
        routes.add_get("/preferences", self._preferences)
        routes.add_get("/search", self._search)
        name = "{id:(?s:.*)}"  # an id may be any text: with slashes, with line breaks, empty
        for path, data in (
            ("/", self._overview),
            ("/deliveries", self._deliveries),
            (f"/notifications/{name}", self._notification),
            (f"/accounts/{name}", self._account),
            (f"/lines/{name}", self._line),
            ("/batches", self._batches),
            ("/runs", self._runs),
            ("/dead-letters", self._letters),
            ("/dead-letters/{letter}", self._letter),
        ):
            routes.add_get("/api/overview" if path == "/" else f"/api{path}", _as_json(data))
            routes.add_get(path, self._as_page(data))
        routes.add_get("/deliveries.csv", self._download)
        routes.add_get("/deliveries.jsonl", self._download)
        routes.add_get("/dead-letters/{letter}/bytes", self._letter_bytes)
        routes.add_post("/api/dead-letters/{verb:redrive|discard}", self._handle_letters)
        for file in sorted(_STATIC.iterdir()):
            routes.add_get(f"/static/{file.name}", _file(file))
        self._listener = Listener(
            app, host=settings.console_host, port=settings.console_port, setting="console"
        )

    async def start(self) -> str:
        """Listen; return the address. Raises CommandError where the port is taken."""
        return f"http://{await self._listener.start()}/"

    async def stop(self) -> None:
        """Finish the requests under way, then close the port."""
        await self._listener.stop()

    # -- what everybody may ask ---------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        stuck = self._indexer.is_stuck
        said = "nothing was read for long: restart the console" if stuck else "ok"
        return web.json_response({"status": said}, status=503 if stuck else 200)

    async def _ready(self, request: web.Request) -> web.Response:
        reason = self._indexer.why_not_ready
        return web.json_response(
            {"ready": reason is None, "reason": reason}, status=200 if reason is None else 503
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(metrics.REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    # -- one function for each path of the contract: its JSON ------------------------------------

    async def _overview(self, request: web.Request) -> dict[str, Any]:
        return await self._views.overview()

    async def _deliveries(self, request: web.Request) -> dict[str, Any]:
        before = _cursor(request, "before")
        wanted = self._filters(request)
        return await self._views.deliveries(wanted, limit=_limit(request), before=before)

    async def _notification(self, request: web.Request) -> dict[str, Any]:
        name = _id(request)
        found = await self._views.notification(name, self._pages.language(request))
        return self._or_not_found(found, f"there is no notification {name}")

    async def _account(self, request: web.Request) -> dict[str, Any]:
        name = _id(request)
        found = await self._views.account(name, self._pages.language(request))
        return self._or_not_found(found, f"there is no account {name}")

    async def _line(self, request: web.Request) -> dict[str, Any]:
        name = _id(request)
        return self._or_not_found(await self._views.line(name), f"there is no line {name}")

    async def _batches(self, request: web.Request) -> dict[str, Any]:
        return await self._views.batches(
            only_open=_flag(request, "open"), limit=_limit(request), after=_listed(request)
        )

    async def _runs(self, request: web.Request) -> dict[str, Any]:
        _flag(request, "near")  # checked only: those close to their alert come first anyway
        return await self._views.runs(limit=_limit(request), before=_listed(request))

    async def _letters(self, request: web.Request) -> dict[str, Any]:
        since, until = self._range(request)
        topic = _text(request, "topic")
        return await self._views.letters(
            limit=_limit(request),
            before=_cursor(request, "before"),
            topic=topic,
            reason=_text(request, "reason"),
            since=since,
            until=until,
            handled_too=_flag(request, "all"),
        )

    async def _letter(self, request: web.Request) -> dict[str, Any]:
        with _not_found():
            return await self._views.letter(request.match_info["letter"])

    def _or_not_found(self, found: dict[str, Any] | None, line: str) -> dict[str, Any]:
        if found is None:
            if self._indexer.why_not_ready is not None:
                raise KafkaAwayError(f"not known yet: {self._indexer.why_not_ready}")
            raise NotFoundError(line if len(line) <= 200 else f"{line[:199]}…")
        return found

    # -- downloads, search, preferences ----------------------------------------------------------

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """Send all rows that match the filters, page by page, so that memory stays small."""
        wanted = self._filters(request)
        left = _limit(request, most=1 << 40, usual=1 << 40)
        is_csv = request.path.endswith(".csv")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/csv; charset=utf-8" if is_csv else "application/x-ndjson",
                "Content-Disposition": f'attachment; filename="{request.path.lstrip("/")}"',
            }
        )
        before = _cursor(request, "before")
        await response.prepare(request)
        if is_csv:
            await response.write(_csv([list(_FIELDS)]))
        while left > 0:
            size = min(left, _DOWNLOAD_ROWS)
            page = await self._views.deliveries(wanted, limit=size, before=before)
            items = page["items"]
            left -= len(items)
            if is_csv:
                await response.write(
                    _csv([[_cell(one[name]) for name in _FIELDS] for one in items])
                )
            else:
                lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in items]
                await response.write("".join(lines).encode())
            if page["next"] is None:
                break
            before = parse_cursor(page["next"])
        await response.write_eof()
        return response

    async def _letter_bytes(self, request: web.Request) -> web.Response:
        name = request.match_info["letter"]
        with _not_found():
            value = await self._views.letter_bytes(name)
        return web.Response(
            body=value,
            content_type="application/octet-stream",
            headers={
                "Content-Disposition": f'attachment; filename="letter-{name.replace(":", "-")}"'
            },
        )

    async def _search(self, request: web.Request) -> web.StreamResponse:
        text = (_text(request, "q") or "").strip()
        found = await self._views.search(text) if text else []
        if len(found) == 1:
            what, name, _ = found[0]
            raise web.HTTPSeeOther(self._pages.address(what, name))
        return self._pages.render(request, "search.html", {"items": found}, q=text)

    async def _preferences(self, request: web.Request) -> web.StreamResponse:
        """Store a choice of language or colours in a cookie, and redirect back."""
        back = request.query.get("to", "/")
        # Redirect only to this server: `//host` would be another one.
        is_ours = back.startswith("/") and not back.startswith(("//", "/\\"))
        response = web.HTTPSeeOther(back if is_ours and back.isprintable() else "/")
        for name, choices in (("lang", ("en", "zh")), ("theme", ("light", "dark", "auto"))):
            value = request.query.get(name)
            if value in choices:
                response.set_cookie(name, str(value), max_age=31_536_000, samesite="Strict")
        raise response

    # -- orders ----------------------------------------------------------------------------------

    async def _handle_letters(self, request: web.Request) -> web.Response:
        """Plan or carry out an order on dead letters."""
        if not _is_from_here(request):
            return _json({"code": 403, "msg": "refused: the request comes from another page"}, 403)
        if request.content_type != "application/json":
            return _json({"code": 415, "msg": "send application/json"}, 415)
        verb = request.match_info["verb"]
        body = await read_body(request, _MOST_BODY)
        if body is None:
            return _json({"code": 413, "msg": f"send at most {_MOST_BODY:,} bytes"}, 413)
        letters, why, execute = _order(body, verb)
        done = await self._views.handle(
            "redrive" if verb == "redrive" else "discard", letters, why=why, execute=execute
        )
        if execute:
            metrics.HANDLED.labels(verb).inc(done["counts"][verb])
            log.info("%s: %s", verb, done["counts"])
        return _json(done)

    # -- around all of them ----------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Answer]
    ) -> web.StreamResponse:
        is_open = request.path in _OPEN_PATHS or request.path.startswith("/static/")
        if not is_open:
            settings = self._settings
            refused = refusal(request, settings.web_token, settings.console_host)
            if refused is not None:
                return refused
        try:
            return await handler(request)
        except (WrongRequestError, BadCursorError) as error:
            return self._sorry(request, 400, str(error))
        except SettingsError as error:
            # These errors are the command line's too, where options begin with dashes.
            return self._sorry(request, 400, "; ".join(error.lines).replace("--", ""))
        except NotFoundError as error:
            return self._sorry(request, 404, str(error))
        except (KafkaAwayError, KafkaError, TimeoutError) as error:
            return self._sorry(request, 503, str(error) or "Kafka doesn't answer in time")
        except CommandError as error:
            return self._sorry(request, 409, str(error))
        except web.HTTPException as answer:
            if answer.status < 400:
                raise
            return self._sorry(request, answer.status, answer.reason)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.rel_url.path)
            return self._sorry(request, 500, "the console failed; its log says why")

    def _sorry(self, request: web.Request, status: int, line: str) -> web.StreamResponse:
        line = " ".join(line.split())
        if request.path.startswith("/api/"):
            return _json({"code": status, "msg": line}, status)
        return self._pages.render(request, "sorry.html", {}, status=status, line=line)

    def _as_page(
        self, data: Callable[[web.Request], Awaitable[dict[str, Any]]]
    ) -> Callable[[web.Request], Answer]:
        template = f"{data.__name__.strip('_')}.html"

        async def answer(request: web.Request) -> web.StreamResponse:
            return self._pages.render(request, template, await data(request))

        return answer

    # -- what a question says --------------------------------------------------------------------

    def _filters(self, request: web.Request) -> Filters:
        since, until = self._range(request)
        return Filters(
            account=_text(request, "account"),
            notification=_text(request, "notification"),
            scenario=_text(request, "scenario"),  # unchecked: other systems have their own ones
            channel=_one_of(request, "channel", _CHANNELS),
            status=_one_of(request, "status", _STATUSES),
            since=since,
            until=until,
            q=_text(request, "q"),
        )

    def _range(self, request: web.Request) -> tuple[int | None, int | None]:
        return parse_range(
            _time(request, "since"), _time(request, "until"), zone=self._settings.zone,
            now=self._views.now(),
        )  # fmt: skip


def _as_json(
    data: Callable[[web.Request], Awaitable[dict[str, Any]]],
) -> Callable[[web.Request], Answer]:
    async def answer(request: web.Request) -> web.Response:
        return _json(await data(request))

    return answer


def _json(body: Any, status: int = 200) -> web.Response:
    text = json.dumps(body, ensure_ascii=False)
    # Half a surrogate pair, which a record may hold escaped, can't be UTF-8.
    return web.Response(
        body=text.encode("utf-8", "backslashreplace"),
        status=status,
        content_type="application/json",
        charset="utf-8",
    )


def _id(request: web.Request) -> str:
    name: str = request.match_info["id"]
    return name


@contextmanager
def _not_found() -> Iterator[None]:
    """Raise NotFoundError for a wrong name of a letter, and for a letter that doesn't exist."""
    try:
        yield
    except KafkaAwayError:
        raise
    except (CommandError, SettingsError) as error:
        raise NotFoundError(str(error)) from None


def _text(request: web.Request, name: str) -> str | None:
    """Return a parameter; None: it is missing or empty."""
    text: str | None = request.query.get(name)
    return text or None


def _time(request: web.Request, name: str) -> str | None:
    """Return a parameter that is a time. An unescaped `+` in it has become a space."""
    text = _text(request, name)
    return None if text is None else text.strip().replace(" ", "+")


def _one_of(request: web.Request, name: str, known: tuple[str, ...]) -> str | None:
    text = _text(request, name)
    if text is not None and text not in known:
        raise WrongRequestError(f"{name}: must be one of {', '.join(known)}")
    return text


def _flag(request: web.Request, name: str) -> bool:
    """Return a parameter that is a flag: `name`, `name=` and `name=1` are all true."""
    text: str | None = request.query.get(name)
    if text is None or text in {"0", "false", "no"}:
        return False
    if text not in {"", "1", "true", "yes"}:
        raise WrongRequestError(f"{name}: is there or it isn't; it takes 1 or 0")
    return True


def _limit(request: web.Request, *, most: int = MOST_ROWS, usual: int = USUAL_ROWS) -> int:
    text = _text(request, "limit")
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) <= 13 and 1 <= int(text) <= most):
        raise WrongRequestError(
            f"limit: must be a number from 1 to {most}; `before` leads to the next page, and "
            "/deliveries.csv or .jsonl gives all deliveries"
        )
    return int(text)


def _cursor(request: web.Request, name: str) -> tuple[int, int, int] | None:
    text = _text(request, name)
    try:
        return None if text is None else parse_cursor(text)
    except BadCursorError as error:
        raise WrongRequestError(f"{name}: {error}") from None


def _listed(request: web.Request) -> tuple[int, int, bytes] | None:
    text = _text(request, "before")
    try:
        return None if text is None else parse_listed(text)
    except BadCursorError as error:
        raise WrongRequestError(f"before: {error}") from None


def _order(body: bytes, verb: str) -> tuple[list[str], str | None, bool]:
    """Parse the body of an order; return its letters, `why` and `execute`. Raises
    WrongRequestError."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise WrongRequestError("the body is no JSON") from None
    if not isinstance(said, dict):
        raise WrongRequestError("the body must be an object")
    letters, why, execute = said.get("letters"), said.get("why"), said.get("execute", False)
    if not isinstance(letters, list) or not all(isinstance(one, str) for one in letters):
        raise WrongRequestError('letters: must be a list of letters, as ["0:17"]')
    if not 1 <= len(letters) <= _MOST_LETTERS:
        raise WrongRequestError(f"letters: must be 1 to {_MOST_LETTERS} of them")
    if why is not None and not isinstance(why, str):
        raise WrongRequestError("why: must be text")
    if verb == "discard" and not (why or "").strip():
        raise WrongRequestError("why: must say why they are discarded")
    if not isinstance(execute, bool):
        raise WrongRequestError("execute: must be true or false")
    return letters, why, execute


def _is_from_here(request: web.Request) -> bool:
    """Does an order come from a page of this server, or from a program and so from no page?

    The scheme isn't compared: where TLS ends at a proxy, this server doesn't know its own.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()


def _csv(rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    """Return a value for CSV that no spreadsheet reads as a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _file(path: Path) -> Callable[[web.Request], Awaitable[web.FileResponse]]:
    async def serve(request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    return serve

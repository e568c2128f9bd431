"""Renders JSON as pages: templates, links, languages, colours, small charts. Looks nothing up."""

import json
import re
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from app.console.charts import bars, peak, steps
from app.console.indexer import Indexer
from app.console.words import chosen_language, translator
from app.settings import Settings
from app.web.numbers import ranges
from streams.records import SCENARIOS
from tables.explained import Language

_FOLDER = Path(__file__).parent / "templates"
_PLACES = {
    "account": "accounts",
    "notification": "notifications",
    "line": "lines",
    "letter": "dead-letters",
}
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_THEMES = ("light", "dark", "auto")


class Pages:
    """Renders every page of the console."""

    def __init__(self, settings: Settings, indexer: Indexer) -> None:
        self._settings = settings
        self._indexer = indexer
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": _number,
            "when": _when,
            "pretty": _pretty,
            "shown": _shown,
            "spoken": _spoken,
            "ranges": ranges,
        }
        self._templates.globals |= {
            "address": self.address,
            "bars": bars,
            "steps": steps,
            "peak": peak,
            "scenarios": (*SCENARIOS, "direct"),
            "channels": ("inbox", "wechat", "sms"),
            "statuses": ("sent", "delivered", "undelivered", "skipped", "failed"),
        }

    def render(
        self, request: web.Request, template: str, data: dict[str, Any], *, status: int = 200,
        **more: Any,
    ) -> web.Response:  # fmt: skip
        """Return a page."""
        language = self.language(request)
        theme = request.cookies.get("theme", "auto")
        query = dict(request.query)

        def link(**changes: str | None) -> str:
            """Return a link to this page with changed parameters; None removes one."""
            left = {name: value for name, value in (query | changes).items() if value is not None}
            return f"{request.rel_url.raw_path}?{urlencode(left)}" if left else (
                request.rel_url.raw_path
            )  # fmt: skip

        text = self._templates.get_template(template).render(
            data=data,
            t=translator(language),
            language=language,
            theme=theme if theme in _THEMES else "auto",
            group=self._settings.group,
            timezone=self._settings.timezone,
            version=version("dialwatch"),
            now=datetime.now(self._settings.zone).isoformat(timespec="seconds"),
            not_ready=self._indexer.why_not_ready,
            path=request.path,
            here=request.raw_path,
            query=query,
            link=link,
            quoted=lambda value: quote(value, safe=""),
            status=status,
            **more,
        )
        return web.Response(
            body=text.encode("utf-8", "backslashreplace"),
            status=status,
            content_type="text/html",
            charset="utf-8",
        )

    def language(self, request: web.Request) -> Language:
        """Return the language of an answer: of `lang` in the URL, else the cookie, else the
        browser's."""
        chosen = request.query.get("lang") or request.cookies.get("lang")
        accepted = request.headers.get("Accept-Language", "")
        return "zh" if chosen_language(chosen, accepted) == "zh" else "en"

    @staticmethod
    def address(what: str, name: str) -> str:
        """Return the path of an account, a notification, a line or a letter."""
        return f"/{_PLACES[what]}/{quote(name, safe='')}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def _when(text: str | None) -> Markup | str:
    """Return a time of the JSON for people, without its zone, which is at the foot of the page."""
    if not text:
        return "–"
    shown = text[:19].replace("T", " ")
    return Markup('<time datetime="{}">{}</time>').format(text, shown)


def _spoken(sentence: str) -> str:
    """Return a sentence with its times written as the page writes times."""
    return _TIME.sub(r"\1 \2", sentence)


def _shown(name: str) -> str:
    """Return an id; one that nobody could see, as JSON. An id may be empty, or blanks."""
    return name if name.strip() else json.dumps(name)


def _pretty(value: Any) -> str:
    """Return a value, or a text that is JSON, as indented JSON; any other text unchanged."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
    return json.dumps(value, ensure_ascii=False, indent=2)

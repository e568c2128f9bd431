"""One installation in which something of everything has happened, and a console that watches it."""

import asyncio
import http.client
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from app.local.console import ConsoleProcess
from app.sandbox.run import running_sandbox
from tests.describe.answers import CONSOLE, check_described
from tests.installation import PATIENCE_SECONDS, Installation, Published
from tests.samples import account, announcement, call, recharge

ODD = 'a/b "c\'d" <script>🙂'
LINES = "of\ntwo\r\nlines\n"
HTML = "<b>Bold</b> & <script>alert(1)</script>"
PHONE = "13812345678"
OPENID = "o1234567890abcdef"
RUBBISH = b"\xff\xfe<script>alert(2)</script>"


def history() -> list[Published]:
    """What the installation is told."""
    return [
        account("acme", name=HTML, openid=OPENID, phone=PHONE, intent_classes=["A"]),
        account("quiet", openid=None, phone=None, intent_classes=["A"]),
        account(ODD, openid="oabcdef1234567890", intent_classes=["A"]),
        *(call("acme", index, result="F", batch_size=50) for index in range(40)),
        *(call("quiet", index, result="W", line_id="line/1 <x>") for index in range(30)),
        call("quiet", 30, result="A", line_id="other"),
        call(ODD, 0, result="A", call_id='call/"0"?&#', phone="13700000009"),
        *(call(name, 0) for name in (LINES, "")),
        recharge("acme", "r1"),
        announcement("a1", title=HTML),
        call("acme", 1, result="G"),  # invalid
        Published("recharges", "acme", b'{"nope'),
        Published("call-records", b"\xff\xfe", RUBBISH),
    ]


@dataclass
class Watched:
    """An installation and its console."""

    installation: Installation
    console: ConsoleProcess

    def ask(
        self, path: str, *, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers. `path` goes as it is."""
        return ask(self.console, path, method=method, body=body, **headers)

    def json(self, path: str, status: int = 200) -> Any:
        """Return the JSON of a path under /api."""
        got, body, _ = self.ask(f"/api{path}")
        assert got == status, body
        return json.loads(body)

    def page(self, path: str, status: int = 200, **headers: str) -> str:
        """Return a page."""
        got, body, _ = self.ask(path, **headers)
        assert got == status, body
        return body.decode()


def ask(
    console: ConsoleProcess, path: str, *, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", console.port, timeout=60.0)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if isinstance(body, dict):
        named = {"Content-Type": "application/json"} | named
    try:
        connection.request(method, path, raw, named)
        answer = connection.getresponse()
        content_type = answer.headers.get_content_type()
        check_described(CONSOLE, method, path, answer.status, content_type)
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def escaped(name: str) -> str:
    """Return an id as it stands in a path."""
    return quote(name, safe="")


@pytest.fixture(scope="session")
def watched(
    kafka: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """Everything told has ended and is indexed, and nothing more happens."""
    made = Installation(kafka, redis_url, tmp_path_factory.mktemp("watched"))
    made.variables["DIALWATCH_RUN_LENGTH"] = "50"
    with ExitStack() as running:
        running.callback(shutil.rmtree, made.directory, ignore_errors=True)
        running.callback(made.close)
        asyncio.run(made.create_topics())
        _, environment = running.enter_context(running_sandbox())
        worker = made.worker(**environment)
        console = made.console(**environment)
        asyncio.run(_tell(made))
        assert worker.pid
        # It is ready once it has read all that the topics hold.
        console.stop()
        console.start()
        yield Watched(made, console)


async def _tell(made: Installation) -> None:
    await made.publish(history())

    def has_all_ended(notifications: list[dict[str, Any]], ended: list[dict[str, Any]]) -> bool:
        return {one["notification_id"] for one in notifications} <= {
            one["notification_id"] for one in ended
        }

    # Two accounts have a customer each, one has money, three hear the news.
    wanted = {("interested_customer", 4), ("recharge_received", 3), ("announcement", 6)}

    def is_all_noticed(found: list[dict[str, Any]]) -> bool:
        counts = Counter(one["scenario"] for one in found)
        return all(counts[scenario] >= count for scenario, count in wanted)

    notifications = await made.wait_for("notifications", is_all_noticed)
    await made.wait_for("deliveries", lambda found: has_all_ended(notifications, found))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await made.read("dead-letters")) < 3:  # noqa: ASYNC110 (Kafka tells nobody)
            await asyncio.sleep(0.2)

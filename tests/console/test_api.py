"""What the console says under /api, beside what the commands say of the same installation."""

import csv
import io
import json
import time
from typing import Any
from urllib.parse import unquote

import pytest

from app.operations.deliveries import DeliveryFilter, find_deliveries
from app.operations.explain import explain_account
from app.operations.installation import open_installation
from app.operations.letters import LetterFilter, find_letters
from app.operations.state import account_state, line_state
from tests.console.conftest import HTML, LINES, ODD, OPENID, PHONE, RUBBISH, Watched, escaped
from tests.installation import PATIENCE_SECONDS

pytestmark = pytest.mark.broker


def until(watched: Watched, path: str, is_so: Any) -> Any:
    """Ask until an answer is as it must be; the index follows Kafka by a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so(found := watched.json(path)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


async def test_the_delivery_log_is_that_of_the_command_page_by_page(watched: Watched) -> None:
    async with open_installation(watched.installation.settings()) as installation:
        right = await find_deliveries(installation, DeliveryFilter(limit=1000))
    until(watched, "/deliveries", lambda found: len(found["items"]) == len(right))
    found: list[dict[str, Any]] = []
    path = "/deliveries?limit=4"
    while True:
        page = watched.json(path)
        assert len(page["items"]) <= 4
        found += page["items"]
        if page["next"] is None:
            break
        path = f"/deliveries?limit=4&before={page['next']}"

    assert found == right


def test_every_filter_lets_through_what_it_says(watched: Watched) -> None:
    everything = watched.json("/deliveries?limit=1000")["items"]
    for name, field in (
        ("account", "account_id"), ("scenario", "scenario"), ("channel", "channel"),
        ("status", "status"), ("notification", "notification_id"),
    ):  # fmt: skip
        for value in {one[field] for one in everything}:
            found = watched.json(f"/deliveries?limit=1000&{name}={escaped(value)}")["items"]
            assert found == [one for one in everything if one[field] == value]
    titled = watched.json(f"/deliveries?q={escaped('& <script>')}")["items"]
    assert {one["title"] for one in titled} == {HTML}
    assert {one["error"] for one in watched.json("/deliveries?q=OPENID")["items"]} == {"no openid"}
    first = everything[0]["notification_id"]
    assert watched.json(f"/deliveries?q={first[:9]}")["items"][0]["notification_id"] == first
    assert watched.json("/deliveries?since=-1h&until=end&limit=1000")["items"] == everything
    assert watched.json("/deliveries?until=-1h")["items"] == []
    unescaped = everything[0]["at"]
    assert "+" in unescaped
    newest = watched.json(f"/deliveries?since={unescaped}")["items"]
    assert newest == [one for one in everything if one["at"] == unescaped]
    # A scenario of another system's.
    assert watched.json("/deliveries?scenario=somebody's")["items"] == []
    page = watched.page("/deliveries?scenario=somebody's")
    assert "<option selected>somebody&#39;s</option>" in page


async def test_an_account_is_what_state_and_explain_say(watched: Watched) -> None:
    as_the_console = watched.installation.settings(
        wechat_app_id="a",
        wechat_app_secret="s",
        wechat_template_id="t",
        sms_url="http://127.0.0.1:1",
    )
    async with open_installation(as_the_console) as installation:
        for name in ("acme", "quiet", ODD):
            found = watched.json(f"/accounts/{escaped(name)}")
            assert found["state"] == await account_state(installation, name)
            told = await explain_account(installation, name)
            assert found["explain"] == told
            assert {one["account_id"] for one in found["deliveries"]} == {name}
        for name in (LINES, ""):
            found = watched.json(f"/accounts/{escaped(name)}")
            assert found["state"] == await account_state(installation, name)
            assert found["state"]["account_id"] == name
            assert "<h1" in watched.page(f"/accounts/{escaped(name)}")
        line = watched.json(f"/lines/{escaped('line/1 <x>')}")
        assert line == {"state": await line_state(installation, "line/1 <x>")}
    for what in ("account", "line", "notification"):
        missing = watched.json(f"/{what}s/{escaped('no' + LINES)}", 404)
        assert missing["msg"] == f"there is no {what} noof two lines"
    text = json.dumps(watched.json("/accounts/acme"))
    assert PHONE not in text
    assert OPENID not in text
    assert "138****5678" in text
    chinese = watched.json("/accounts/acme?lang=zh")["explain"]
    assert any("一" <= sign <= "鿿" for sign in chinese[0]["because"][0])


def test_runs_and_batches_are_those_that_go_on(watched: Watched) -> None:
    for near in ("?near", "?near=", "?near=1"):
        runs = watched.json(f"/runs{near}")["items"]
        assert [(one.get("account_id"), one.get("line_id"), one["count"]) for one in runs] == [
            ("acme", None, 40),
            (None, "line/1 <x>", 30),
        ]
    assert runs[0]["length"] == 50
    for bare in ("?open", "?open=", "?open=1"):
        batches = watched.json(f"/batches{bare}")["items"]
        mine = next(one for one in batches if one["account_id"] == "acme")
        assert (mine["batch_size"], mine["seen"], mine["completed"]) == (50, 40, False)
        assert mine["missing"] == list(range(40, 50))
    first = watched.json("/batches?open&limit=1")
    rest = watched.json(f"/batches?open&limit=9&before={first['next']}")
    assert first["items"] + rest["items"] == batches


async def test_a_notification_is_told_from_its_cause_to_its_end(watched: Watched) -> None:
    found = watched.json(f"/deliveries?account={escaped(ODD)}&scenario=interested_customer")
    commands = await watched.installation.read_values("notifications")
    for one in found["items"]:
        said = watched.json(f"/notifications/{one['notification_id']}")
        assert said["command"] == next(
            command for command in commands if command["notification_id"] == one["notification_id"]
        )
        cause = said["cause_record"]
        assert cause["topic"] == watched.installation.topics.calls
        assert json.loads(cause["value"])["call_id"] == 'call/"0"?&#'
        assert said["deliveries"] == [one]
        assert "13700000009" in said["message"]
        whats = [step["what"] for step in said["timeline"]]
        assert 'call/"0"?&#' in whats[0]
        assert len(whats) >= 3
        if one["channel"] == "inbox":
            assert said["inbox"]["message_id"] == one["notification_id"]
        else:
            assert said["inbox"] is None
            assert said["message"].splitlines()[1] == f"客户名称：{ODD}公司"
    sms = watched.json("/deliveries?channel=sms")["items"][0]["notification_id"]
    assert watched.json(f"/notifications/{sms}")["message"].startswith("【硅基智能】尊敬的")


async def test_dead_letters_are_those_of_the_command_and_whole_one_by_one(
    watched: Watched,
) -> None:
    async with open_installation(watched.installation.settings()) as installation:
        right = await find_letters(installation, LetterFilter(limit=99))
    found = until(watched, "/dead-letters", lambda said: len(said["items"]) == len(right))["items"]
    assert found == right
    rubbish = next(one for one in found if one["key"] == {"base64": "//4="})
    status, raw, headers = watched.ask(f"/dead-letters/{rubbish['letter']}/bytes")
    assert (status, raw) == (200, RUBBISH)
    assert headers["Content-Disposition"].startswith("attachment")
    whole = watched.json(f"/dead-letters/{rubbish['letter']}")
    assert whole["value"] == {"base64": "//48c2NyaXB0PmFsZXJ0KDIpPC9zY3JpcHQ+"}
    assert {one["key"] for one in whole["headers"]} >= {"dialwatch.reason", "dialwatch.topic"}
    by_topic = watched.json("/dead-letters?topic=recharges")["items"]
    assert by_topic == [one for one in found if one["topic"].endswith("recharges")]
    assert watched.json("/dead-letters?reason=JSON%25")["items"] == []
    assert watched.json("/dead-letters?since=-1h&reason=json")["items"]


def test_the_overview_counts_what_was_delivered(watched: Watched) -> None:
    # Kafka is asked for the lag, for some seconds at most, and what it said is kept for a while.
    said = until(
        watched,
        "/overview",
        lambda said: said["workers"] and said["lag"] and not any(one["lag"] for one in said["lag"]),
    )
    everything = watched.json("/deliveries?limit=1000")["items"]
    for span in ("hour", "day"):
        assert sum(one["count"] for one in said["counts"][span]) == len(everything)
        assert sum(sum(one["statuses"].values()) for one in said["rates"][span]) == len(everything)
    assert [one["partitions"] for one in said["workers"]] == [
        {topic: [0, 1, 2, 3] for topic in said["workers"][0]["partitions"]}
    ]
    assert said["dead_letters"]["waiting"] == 3


def test_all_that_is_found_can_be_taken_away(watched: Watched) -> None:
    right = watched.json("/deliveries?limit=1000&channel=inbox")["items"]
    _, raw, headers = watched.ask("/deliveries.jsonl?channel=inbox")
    assert [json.loads(line) for line in raw.splitlines()] == right
    _, raw, headers = watched.ask("/deliveries.csv?channel=inbox")
    assert headers["Content-Disposition"] == 'attachment; filename="deliveries.csv"'
    rows = list(csv.DictReader(io.StringIO(raw.decode())))
    assert [row["notification_id"] for row in rows] == [one["notification_id"] for one in right]
    _, raw, _ = watched.ask("/deliveries.jsonl?limit=1")
    assert len(raw.splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/accounts/nobody", 404, "no account nobody"),
        ("/accounts/%00%FF%27%3B--", 404, "no account"),
        ("/lines/nothing", 404, "no line nothing"),
        ("/notifications/" + "f" * 32, 404, "no notification"),
        ("/notifications/..%2F..%2Fetc%2Fpasswd", 404, "no notification"),
        ("/dead-letters/0:99999", 404, "no letter 0:99999"),
        ("/dead-letters/99:1", 404, "no letter 99:1"),
        ("/dead-letters/%3Cscript%3E", 404, "no letter"),
        ("/deliveries?limit=1000000", 400, "limit"),
        ("/deliveries?limit=0", 400, "limit"),
        ("/deliveries?limit=-1", 400, "limit"),
        ("/deliveries?limit=" + "9" * 5000, 400, "limit"),
        ("/deliveries?limit=" + "1".zfill(13) + "9" * 9, 400, "limit"),
        ("/deliveries?since=2026-02-14&until=2026-02-13", 400, "turned round"),
        ("/deliveries?since=yesterday", 400, "since"),
        ("/deliveries?status=lost", 400, "status: must be one of sent"),
        ("/deliveries?before=1.2", 400, "before"),
        ("/runs?before=x", 400, "before"),
        ("/batches?open=maybe", 400, "open"),
        ("/dead-letters?before=x", 400, "before"),
        ("/nowhere", 404, "Not Found"),
    ],
)
def test_a_wrong_question_gets_one_clear_line(
    watched: Watched, path: str, status: int, says: str
) -> None:
    said = watched.json(path, status)
    assert set(said) == {"code", "msg"}
    assert says in said["msg"]
    assert len(said["msg"]) < 400
    page = watched.page(path, status)
    assert "<script>" not in page
    assert "Traceback" not in page


def test_nothing_of_a_record_becomes_part_of_a_page(watched: Watched) -> None:
    nid = watched.json(f"/deliveries?account={escaped(ODD)}")["items"][0]["notification_id"]
    letter = watched.json("/dead-letters")["items"][0]["letter"]
    for path in (
        "/", "/deliveries", f"/accounts/{escaped(ODD)}", "/accounts/acme", "/runs?near",
        "/batches?open", "/dead-letters", f"/dead-letters/{letter}", f"/notifications/{nid}",
        f"/lines/{escaped('line/1 <x>')}", f"/search?q={escaped(HTML)}",
        f"/deliveries?q={escaped(HTML)}&account={escaped(HTML)}",
        f"/dead-letters?topic={escaped(HTML)}&reason={escaped(HTML)}",
    ):  # fmt: skip
        for language in ("en", "zh"):
            page = watched.page(path, Accept_Language=language)
            assert "<b>Bold" not in page, path
            assert "alert(1)</script>" not in page, path
            assert "alert(2)</script>" not in page, path
            assert "<x>" not in page, path
            assert 'lang="zh-CN"' in page or language == "en"
    _, _, headers = watched.ask("/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_search_leads_to_what_an_id_names(watched: Watched) -> None:
    nid = watched.json("/deliveries?account=acme")["items"][0]["notification_id"]
    for text, place in (
        ("acme", "/accounts/acme"),
        (ODD, f"/accounts/{escaped(ODD)}"),
        ("line/1 <x>", f"/lines/{escaped('line/1 <x>')}"),
        (nid, f"/notifications/{nid}"),
        (nid[:12], f"/notifications/{nid}"),
    ):
        status, _, headers = watched.ask(f"/search?q={escaped(text)}")
        assert (status, unquote(headers["Location"])) == (303, unquote(place))
    call = escaped('call/"0"?&#')  # it caused two messages
    page = watched.page(f"/search?q={call}")
    assert page.count("/notifications/") == 2
    assert "Nothing is known" in watched.page("/search?q=nothing-of-ours")


def test_preferences_lead_back_to_a_page_of_this_server_only(watched: Watched) -> None:
    status, _, headers = watched.ask("/preferences?lang=zh&to=%2Fdeliveries%3Fq%3Dx")
    assert (status, headers["Location"]) == (303, "/deliveries?q=x")
    assert "lang=zh" in headers["Set-Cookie"]
    for elsewhere in ("//evil.example/", "https://evil.example/", "/\\evil.example", "x"):
        _, _, headers = watched.ask(f"/preferences?theme=dark&to={escaped(elsewhere)}")
        assert headers["Location"] == "/"
    assert "概览" in watched.page("/", Cookie="lang=zh")
    assert 'data-theme="dark"' in watched.page("/", Cookie="theme=dark; lang=<x>")

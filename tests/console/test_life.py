"""A console's life beside workers: killed, rebuilt, two at once, handled letters, who may look."""

import asyncio
import gc
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from app.console.indexer import Indexer
from app.console.lookups import KafkaLookups
from app.console.queries import Filters, Queries
from app.operations.installation import open_installation
from app.operations.lag import group_lag
from app.operations.state import line_state
from streams.times import parse_instant
from tests.console.conftest import Watched, ask
from tests.engine.test_headers import NAME, SHOWN, publish
from tests.installation import PARTITIONS, PATIENCE_SECONDS, Installation, Published
from tests.samples import account, call

pytestmark = pytest.mark.broker

OURS = [f"dialwatch.{name}" for name in ("topic", "partition", "offset", "reason", "at")]
"""The headers at the end of a letter that was none before."""
SAID = {
    "notification_id": "n-1", "channel": "inbox", "account_id": "acme", "attempts": 1,
    "scenario": "low_balance", "status": "sent", "at": "2999-01-01T00:00:00Z",
}  # fmt: skip


def items(console: Any, path: str = "/api/deliveries?limit=1000") -> list[dict[str, Any]]:
    status, body, _ = ask(console, path)
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["items"]
    return found


def wait_until(is_so: Any, within_s: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it didn't come to it"
        time.sleep(0.1)


async def test_killed_it_goes_on_deleted_it_is_rebuilt_and_two_see_the_same(
    installation: Installation,
) -> None:
    installation.worker()
    first, second = installation.console(), installation.console()
    await installation.publish([account("acme", openid=None, intent_classes=["A"])])
    for number in range(6):
        await installation.publish([call("acme", number, result="A", batch_size=50)])
        if number == 2:
            first.kill()
        if number == 4:
            first.start()
            second.kill()
            shutil.rmtree(second.directory / "index")
            second.start()
    ended = await installation.wait_for("deliveries", lambda found: len(found) == 12)
    right = sorted(one["notification_id"] for one in ended)
    for console in (first, second):
        wait_until(lambda console=console: len(items(console)) == 12)
        assert sorted(one["notification_id"] for one in items(console)) == right
    # With their titles too, which are the commands'.
    wait_until(lambda: items(first) == items(second))
    assert "built anew" not in first.log.read_text()
    # No group but the workers' own, and nobody else in it.
    async with open_installation(installation.settings()) as opened:
        assert len((await group_lag(opened))["members"]) == 1
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.brokers)
    await admin.start()
    groups = [name for name, *_ in await admin.list_consumer_groups()]
    await admin.close()
    assert [name for name in groups if installation.name in name] == [installation.name]
    first.terminate()
    assert first.wait_exit() == 0


async def test_a_topic_made_anew_is_indexed_anew(installation: Installation) -> None:
    console = installation.console()
    rubbish = [call("acme", index, result="F") for index in range(3)]
    worker = installation.worker()
    await installation.publish([*rubbish, call("acme", 9, result="?")])
    wait_until(lambda: len(items(console, "/api/dead-letters")) == 1)
    console.kill()
    worker.stop()
    await installation.delete_topic("dead-letters")
    await installation.create_topics()
    console.start()
    assert items(console, "/api/dead-letters") == []
    assert "dead-letters was made anew: the index is built anew" in console.log.read_text()


async def test_an_index_built_anew_beside_readers_is_what_they_read(
    installation: Installation,
) -> None:
    console = installation.console()
    worker = installation.worker()
    await installation.publish([call("acme", 9, result="?")])
    wait_until(lambda: len(items(console, "/api/dead-letters")) == 1)
    worker.stop()
    await installation.delete_topic("dead-letters")
    await installation.create_topics()
    wait_until(lambda: "built anew" in console.log.read_text())
    wait_until(lambda: items(console, "/api/dead-letters") == [])


async def test_partitions_that_come_while_it_runs_are_read_too(
    installation: Installation, tmp_path: Path
) -> None:
    settings, topics = installation.settings(console_datadir=tmp_path), installation.topics
    indexer, lookups = Indexer(settings, look_again_s=0.2), KafkaLookups(settings, look_again_s=0.0)
    queries = Queries(settings)

    def indexed() -> list[int]:
        found = queries.deliveries(Filters(), now=parse_instant(SAID["at"]), limit=9)
        return sorted(one.place[1] for one in found)

    await indexer.open()
    following = asyncio.create_task(indexer.run())
    try:
        await installation.publish([Published("deliveries", "acme", SAID, 0)])
        await eventually(lambda: indexed() == [0] and indexer.why_not_ready is None)
        await have_lags(lookups, PARTITIONS)
        await installation.add_partitions(PARTITIONS + 1)
        await installation.publish([Published("deliveries", "acme", SAID, PARTITIONS)])
        await eventually(lambda: indexed() == [0, PARTITIONS] and indexer.why_not_ready is None)
        assert indexer.topics is not None
        assert indexer.topics.partitions == PARTITIONS + 1
        await have_lags(lookups, PARTITIONS + 1)
        assert await lookups.record(topics.deliveries, PARTITIONS, 0) is not None
    finally:
        following.cancel()
        await asyncio.wait([following])
        await lookups.close()
        await indexer.close()


async def test_whoever_is_cancelled_while_it_connects_leaves_no_connection_open(
    installation: Installation,
) -> None:
    for waits in range(40):  # turns of the event loop: somewhere within a connection's beginning
        lookups = KafkaLookups(installation.settings())
        asking = asyncio.create_task(lookups.installation())
        for _ in range(waits):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await lookups.close()
    gc.collect()  # what was left open is a warning, which is an error


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so():  # noqa: ASYNC110 (the index tells nobody)
            await asyncio.sleep(0.1)


async def have_lags(lookups: KafkaLookups, partitions: int) -> None:
    """Ask until there are the lags of so many partitions: Kafka may take too long to answer."""
    numbers: set[int] | None = None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while numbers != set(range(partitions)):
            lag, _ = await lookups.lag(kept_s=0.0)
            numbers = None if lag is None else {row["partition"] for row in lag["partitions"]}


async def test_what_is_in_an_open_transaction_or_aborted_is_not_shown(
    installation: Installation,
) -> None:
    console = installation.console()
    producer = AIOKafkaProducer(
        bootstrap_servers=installation.brokers, transactional_id=f"{installation.name}-test"
    )
    await producer.start()
    topic = installation.topics.deliveries
    try:
        for is_kept in (False, True):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, json.dumps(SAID).encode(), key=b"acme")
            await asyncio.sleep(1.0)
            assert items(console) == []
            if is_kept:
                await producer.commit_transaction()
            else:
                await producer.abort_transaction()
        wait_until(lambda: len(items(console)) == 1)
    finally:
        await producer.stop()


async def test_letters_are_planned_refused_from_elsewhere_and_handled_once(
    installation: Installation,
) -> None:
    installation.worker()
    console = installation.console()
    await installation.publish(
        [call("acme", index, result="?") for index in range(3)] + [account("acme", phone=7)]
    )
    path = "/api/dead-letters"
    wait_until(lambda: len(items(console, path)) == 4)
    letters = {one["letter"]: one for one in items(console, path)}
    calls = [name for name, one in letters.items() if one["topic"].endswith("call-records")]
    other = next(name for name in letters if name not in calls)
    order = {"letters": calls, "why": None, "execute": True}

    def post(verb: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, raw, _ = ask(console, f"{path}/{verb}", method="POST", body=body, **headers)
        return status, json.loads(raw)

    own = f"http://127.0.0.1:{console.port}"
    for origin in ("http://evil.example", "null", f"{own}0", "http://localhost"):
        assert post("redrive", order, Origin=origin)[0] == 403
    assert post("redrive", order, Sec_Fetch_Site="cross-site")[0] == 403
    assert post("redrive", json.dumps(order).encode(), Content_Type="text/plain")[0] == 415
    for body, says in (
        (b"{", "no JSON"), ([], "object"), ({"letters": []}, "letters"), ({}, "letters"),
        ({"letters": [7]}, "letters"), ({"letters": ["0:1"], "execute": "yes"}, "execute"),
        ({"letters": ["x"]}, "no letter"), ({"letters": ["0:1"] * 20_000}, "letters"),
        (b"[" * 100_000, "no JSON"),
    ):  # fmt: skip
        status, said = post("redrive", body, Content_Type="application/json")
        assert (status, says in said["msg"]) == (400, True), said
    status, said = post("discard", {"letters": calls, "execute": True})
    assert (status, "why" in said["msg"]) == (400, True)
    assert post("redrive", {"letters": ["0:99999"]})[0] == 409
    assert post("redrive", b" " * (1 << 20 | 1), Content_Type="application/json")[0] == 413
    assert len(items(console, path)) == 4  # nothing was done so far

    status, plan = post("redrive", order | {"execute": False}, Origin=own)
    assert (status, plan["executed"], plan["counts"]["redrive"]) == (200, False, 3)
    status, done = post("redrive", order, Origin=own)
    assert (status, done["executed"], done["counts"]["redrive"]) == (200, True, 3)
    # Still wrong, so each is a dead letter once more, for the second time.
    wait_until(lambda: sorted(one["attempts"] for one in items(console, path)) == [1, 2, 2, 2])
    status, done = post("redrive", order)
    assert (done["counts"]["redrive"], done["counts"]["handled"]) == (0, 3)
    status, done = post("discard", {"letters": [other], "why": "a test", "execute": True})
    assert (status, done["counts"]["discard"]) == (200, 1)
    everything = {one["letter"]: one["handled"] for one in items(console, f"{path}?all")}
    assert everything[other] == "discarded"
    assert {everything[name] for name in calls} == {"redriven"}
    # The marks are in Kafka: an index made anew knows them too.
    console.kill()
    shutil.rmtree(console.directory / "index")
    console.start()
    assert {one["letter"]: one["handled"] for one in items(console, f"{path}?all")} == everything


async def test_headers_of_other_producers_stop_nothing_and_null_reads_as_empty(
    installation: Installation,
) -> None:
    installation.worker()
    console = installation.console()
    null = [("h", None), ("dialwatch.reason", None), ("dialwatch.attempts", None)]
    said = {
        "notification_id": "n-1", "scenario": "survey", "channel": "inbox", "account_id": "acme",
        "occurred_at": "2026-11-01T10:00:00+08:00", "title": "t", "content": "c", "page": None,
        "cause": {"call_id": 5}, "half": "\ud83d",
    }  # fmt: skip
    for headers in (null, [(NAME.decode(), None)]):
        await publish(installation, "call-records", b"acme", b"rubbish", headers)
    headers = [("dialwatch.cause", None), (NAME.decode(), b"1")]
    await publish(installation, "notifications", b"acme", json.dumps(said).encode(), headers)
    path = "/api/dead-letters"
    wait_until(lambda: len(items(console, path)) == 2)
    wait_until(lambda: [one["title"] for one in items(console)] == ["t"])
    own = []
    for one in reversed(items(console, path)):
        assert (one["reason"].split(":")[0], one["attempts"]) == ("value", 1)
        status, body, _ = ask(console, f"{path}/{one['letter']}")
        assert status == 200, body
        found = json.loads(body)
        assert found["value"] == "rubbish"
        own.append([tuple(header.values()) for header in found["headers"][: -len(OURS)]])
        assert [header["key"] for header in found["headers"][-len(OURS) :]] == OURS
        assert ask(console, f"/dead-letters/{one['letter']}")[0] == 200
    assert own == [[(name, "") for name, _ in null], [(SHOWN, "")]]
    (told,) = items(console)
    assert (told["title"], told["status"]) == ("t", "sent")
    status, body, _ = ask(console, "/api/notifications/n-1")
    found = json.loads(body)
    assert (status, found["command"], found["cause_record"]) == (200, said, None)
    assert found["message"] == "t\nc"
    assert ask(console, "/notifications/n-1")[0] == 200


async def test_a_line_whose_run_many_accounts_are_in_is_what_the_command_says(
    installation: Installation,
) -> None:
    installation.variables["DIALWATCH_RUN_LENGTH"] = "1000"
    installation.worker()
    console = installation.console()
    await installation.publish(
        call(f"account-{number}", 0, result="W", line_id="L") for number in range(600)
    )
    wait_until(lambda: [one["count"] for one in items(console, "/api/runs?near")] == [600])
    async with open_installation(installation.settings()) as opened:
        right = await line_state(opened, "L")
    assert right is not None
    assert len(right["accounts"]) == 600
    assert json.loads(ask(console, "/api/lines/L")[1]) == {"state": right}
    (run,) = items(console, "/api/runs")
    assert (run["line_id"], run["accounts"]) == ("L", 600)


async def test_with_a_token_nothing_is_shown_without_it(installation: Installation) -> None:
    console = installation.console(DIALWATCH_WEB_TOKEN="ops-token")
    for path in (
        "/", "/deliveries", "/deliveries.csv", "/deliveries.jsonl", "/notifications/x",
        "/accounts/x", "/lines/x", "/batches", "/runs", "/dead-letters", "/dead-letters/0:0",
        "/dead-letters/0:0/bytes", "/search?q=x", "/nowhere", "/preferences",
        "/api/overview", "/api/deliveries", "/api/notifications/x", "/api/accounts/x",
        "/api/lines/x", "/api/batches", "/api/runs", "/api/dead-letters", "/api/nowhere",
    ):  # fmt: skip
        status, body, headers = ask(console, path)
        assert status == 401, path
        assert "ops-token" not in body.decode() + str(headers)
        assert ask(console, path, Authorization="Bearer wrong")[0] == 401
        assert ask(console, path, Authorization="Bearer ops-token")[0] != 401
    assert ask(console, "/api/dead-letters/redrive", method="POST", body={"letters": []})[0] == 401
    for path in ("/health", "/ready", "/metrics"):
        assert ask(console, path)[0] == 200
    shown = ask(console, "/metrics")[1].decode()
    assert (
        f'dialwatch_console_records_total{{topic="{installation.topics.dead_letters}"}} ' in shown
    )
    assert 'dialwatch_console_letters_handled_total{verb="discard"} 0.0' in shown


def test_without_a_token_only_this_machine_s_own_clients_are_served(watched: Watched) -> None:
    assert watched.ask("/api/overview", Host="evil.example")[0] == 403
    assert watched.ask("/", X_Forwarded_For="10.0.0.1")[0] == 403
    assert watched.ask("/", Host="localhost")[0] == 200


async def test_while_kafka_is_away_it_serves_what_it_has_and_says_so(
    installation: Installation,
) -> None:
    console = installation.console(is_started=False)
    console.launch(DIALWATCH_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")

    def says() -> str:
        try:
            return str(json.loads(ask(console, "/ready")[1])["reason"])
        except OSError:
            return ""

    wait_until(lambda: "127.0.0.1:1" in says())
    assert ask(console, "/health")[0] == 200
    assert items(console) == []
    status, body, _ = ask(console, "/")
    assert (status, b"127.0.0.1:1" in body) == (200, True)
    for path in ("/dead-letters/0:0", "/accounts/acme", "/lines/x", "/notifications/x"):
        status, body, _ = ask(console, f"/api{path}")  # not 404: it isn't known
        assert (status, b"127.0.0.1:1" in body) == (503, True), path
    console.terminate()
    assert console.wait_exit() == 0


async def test_one_directory_has_one_console_and_one_port_too(installation: Installation) -> None:
    console = installation.console()
    for variables, says in (
        ({"DIALWATCH_CONSOLE_DATADIR": str(console.directory / "index")}, "another console runs"),
        ({"DIALWATCH_CONSOLE_PORT": str(console.port)}, "can't listen on"),
    ):
        other = installation.console(is_started=False)
        other.environment = (other.environment or {}) | variables
        other.launch()
        assert other.wait_exit() == 1
        lines = other.log.read_text().splitlines()
        assert says in lines[-1]
        assert "set DIALWATCH_CONSOLE" in lines[-1] or "give each its own" in lines[-1]

"""The worker's web server, before there is a Kafka and with one."""

import asyncio
import json
import operator
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.local.worker import WorkerProcess
from app.redis_store import open_redis
from app.sandbox.faults import Faults
from app.sandbox.run import running_sandbox
from app.shared_holds import read_holds
from tests.installation import PATIENCE_SECONDS, Installation
from tests.samples import account, call
from tests.web.conftest import answering


async def asked(worker: WorkerProcess, path: str, is_so: Callable[[str], bool]) -> str:
    """Return what a worker answers with 200 once it is as it must be."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        status, text = worker.get(path, PATIENCE_SECONDS)
        assert status == 200, text
        if is_so(text):
            return text
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.1)


async def test_a_worker_without_kafka_is_well_but_not_ready_and_says_why(tmp_path: Path) -> None:
    worker = WorkerProcess(
        tmp_path / "worker",
        {
            "DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "DIALWATCH_REDIS_URL": "redis://127.0.0.1:1/0",
        },
    )
    worker.launch()
    try:
        await answering(worker)
        status, body = worker.get("/ready")
        assert status == 503
        assert "127.0.0.1:1" in json.loads(body)["reason"]
        assert worker.get("/metrics")[0] == 200
        status, page = worker.get("/")
        assert (status, "waiting for Kafka at 127.0.0.1:1" in page) == (200, True)
        status, page = worker.get("/recent")
        assert (status, "waiting for Kafka at 127.0.0.1:1" in page) == (200, True)
        worker.terminate()
        assert worker.wait_exit() == 0
        assert "127.0.0.1:1" in worker.log.read_text()
    finally:
        worker.kill()


@pytest.mark.broker
async def test_ready_metrics_and_page_of_a_worker_at_work(installation: Installation) -> None:
    worker = installation.worker(
        DIALWATCH_WECHAT_APP_SECRET="do-not-show-me", DIALWATCH_SMS_TOKEN="do-not-show-me"
    )
    await installation.publish(
        [account("acme")] + [call("acme", index, result="F") for index in range(100)]
    )
    await installation.wait_for("notifications", lambda seen: len(seen) == 2)
    status, body = worker.get("/ready")
    assert status == 200
    assert json.loads(body)["partitions"][installation.topics.calls] == [0, 1, 2, 3]

    # What a cycle folded that failed counts again with the next.
    least = {
        f'dialwatch_records_total{{topic="{installation.topics.calls}"}}': 100,
        'dialwatch_notifications_total{channel="inbox",scenario="unreachable_run"}': 1,
    }
    lag = f'dialwatch_lag_records{{partition="0",topic="{installation.topics.calls}"}} 0'

    def is_counted(said: str) -> bool:
        found = [re.search(rf"^{re.escape(name)} (.+)$", said, re.MULTILINE) for name in least]
        counts = [float(one[1]) if one else 0 for one in found]
        return all(map(operator.ge, counts, least.values())) and lag in said

    metrics = await asked(worker, "/metrics", is_counted)
    for reason in ("key", "value", "result", "other"):
        shown = f'{{reason="{reason}",topic="{installation.topics.calls}"}} 0.0'
        assert f"dialwatch_dead_letters_total{shown}" in metrics
    for channel, code in (("wechat", "43101"), ("sms", "422")):
        shown = f'{{channel="{channel}",reason="{code}",status="failed"}} 0.0'
        assert f"dialwatch_deliveries_total{shown}" in metrics
    assert "acme" not in metrics

    page = await asked(worker, "/", lambda said: "unreachable_run" in said)
    assert installation.name in page
    assert "acme" not in page
    assert "do-not-show-me" not in page + metrics
    worker.terminate()
    assert worker.wait_exit() == 0


@pytest.mark.broker
async def test_the_newest_deliveries_and_dead_letters_can_be_looked_at(
    installation: Installation,
) -> None:
    worker = installation.worker()
    rubbish = call("account-01", 0, result="G")
    runs = [call("account-01", index, result="F") for index in range(100)]
    await installation.publish([account("account-01", openid=None), rubbish, *runs])
    await installation.wait_for("deliveries", lambda seen: len(seen) == 2)
    # It doesn't wait long for Kafka. `result` is the dead letter's reason.
    told = ("no openid", "unreachable_run", "result")
    page = await asked(worker, "/recent", lambda said: all(one in said for one in told))
    assert "ac…01" in page
    for whole in ("account-01", "13700000000", "openid_account"):
        assert whole not in page
    inbox = "/recent?channel=inbox&status=sent"
    only_inbox = await asked(worker, inbox, lambda said: "unreachable_run" in said)
    assert "no openid" not in only_inbox


@pytest.mark.broker
async def test_with_a_token_the_newest_deliveries_are_for_whom_has_it(
    installation: Installation,
) -> None:
    worker = installation.worker(DIALWATCH_WEB_TOKEN="ops-token")
    assert worker.get("/recent")[0] == 401
    assert worker.get("/")[0] == 200


@pytest.mark.broker
async def test_without_redis_a_worker_watches_on_and_says_what_waits(
    installation: Installation,
) -> None:
    installation.variables["DIALWATCH_REDIS_URL"] = "redis://127.0.0.1:1/0"
    with running_sandbox() as (sandbox, environment):
        worker = installation.worker(**environment)
        await installation.publish(
            [account("acme", intent_classes=["A"]), call("acme", 0, result="A")]
        )
        await installation.wait_for("notifications", lambda seen: len(seen) == 2)
        await asked(worker, "/", lambda said: "answer: messages wait" in said)
        assert worker.get("/ready")[0] == 200
        assert "set DIALWATCH_REDIS_URL; until then no message is sent" in worker.log.read_text()
        (told,) = await installation.wait_for("deliveries", bool)
        assert told["channel"] == "inbox"
        assert sandbox.wechat.messages == []
        worker.terminate()
        assert worker.wait_exit() == 0


@pytest.mark.broker
async def test_what_a_worker_holds_is_told_by_it_and_by_redis_and_since_when(
    installation: Installation,
) -> None:
    with running_sandbox() as (sandbox, environment):
        sandbox.faults = Faults(answer=48001)
        worker = installation.worker(**environment)
        await installation.publish(
            [account("acme", intent_classes=["A"]), call("acme", 0, result="A")]
        )
        redis = open_redis(installation.variables["DIALWATCH_REDIS_URL"])
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (held := await read_holds(redis, installation.name)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            ((hold,), told) = held, json.loads(worker.get("/ready")[1])["holds"]
            assert told == [hold._asdict()]
            assert (hold.channel, hold.reason, hold.scope) == ("wechat", "48001", None)
            assert hold.since < hold.until
            worker.terminate()
            assert worker.wait_exit() == 0
            assert await read_holds(redis, installation.name) == []
        finally:
            await redis.aclose()

"""DIALWATCH_LOG_FORMAT: what a worker says, as lines for people or as JSON for machines."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from app.logs import set_up_logs
from app.sandbox.faults import Faults
from app.sandbox.run import running_sandbox
from tests.cli.test_commands import dialwatch
from tests.engine.inprocess import eventually
from tests.installation import Installation
from tests.samples import account, call


@pytest.fixture(params=["json"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged in this test, as JSON or as the test says."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []  # those of pytest, which `force` would close
    monkeypatch.setattr("sys.stderr", stream)
    set_up_logs(log_format=request.param)
    yield stream
    root.handlers[:], root.level = handlers, level


def test_a_line_is_one_object_with_what_is_known_of_the_record(said: io.StringIO) -> None:
    log = logging.getLogger("agents.send")
    log.warning("给 %s\nand more", "acme", extra={"topic": "t", "partition": 0, "offset": 7})
    log.info("sent", extra={"notification_id": "id1", "offset": None, "phone": "13700000000"})
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("failed")
    first, second, third = [json.loads(line) for line in said.getvalue().splitlines()]
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {
        "level": "warning",
        "logger": "agents.send",
        "message": "给 acme\nand more",
        "topic": "t",
        "partition": 0,
        "offset": 7,
    }
    assert second["notification_id"] == "id1"
    assert "offset" not in second
    assert "phone" not in second
    assert "ValueError: wrong" in third["traceback"]


@pytest.mark.parametrize("said", ["text"], indirect=True)
def test_a_line_for_people_says_whose_it_is_once(said: io.StringIO) -> None:
    log = logging.getLogger("agents.send")
    log.warning("late", extra={"topic": "t", "partition": 3, "offset": 17})
    log.warning("given up: id1", extra={"notification_id": "id1"})
    first, second = said.getvalue().splitlines()
    assert first.endswith("WARNING late topic=t partition=3 offset=17")
    assert second.endswith("WARNING given up: id1")


@pytest.mark.parametrize("said", ["json", "text"], indirect=True)
def test_faust_s_services_say_only_what_is_wrong_and_not_their_names(said: io.StringIO) -> None:
    log = logging.getLogger("app.faust_app")
    log.info("[^_App]: Starting...")
    log.info("[^--_ConsumerThread]: %s", "Stopping...")
    log.warning("[^-_Consumer]: %s is late", "it")
    (line,) = said.getvalue().splitlines()
    assert "it is late" in line
    assert "[^" not in line


def test_what_stops_a_worker_is_a_line_of_the_log_too(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    variables = {
        "DIALWATCH_LOG_FORMAT": "json",
        "DIALWATCH_DATADIR": str(tmp_path / "a-file" / "d"),
    }
    ended = dialwatch("worker", directory=tmp_path, variables=variables)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert json.loads(line)["level"] == "error"
    assert "DIALWATCH_DATADIR" in json.loads(line)["message"]


@pytest.mark.broker
async def test_what_a_message_met_is_logged_with_whose_it_is(installation: Installation) -> None:
    with running_sandbox() as (sandbox, environment):
        sandbox.faults = Faults(answer=48004)
        await installation.publish([account("acme", intent_classes=["A"])])
        worker = installation.worker(DIALWATCH_LOG_FORMAT="json", **environment)
        await installation.publish([call("acme", 0, result="A")])
        told = await installation.wait_for("notifications", lambda seen: len(seen) == 2)
        (wanted,) = [one["notification_id"] for one in told if one["channel"] == "wechat"]

        def met() -> list[str]:
            whole = worker.log.read_text("utf-8").rpartition("\n")[0]  # a line may be half there
            lines = [json.loads(line) for line in whole.splitlines()]
            return [
                line["notification_id"]
                for line in lines
                if "wechat answered 48004" in line["message"]
            ]

        await eventually(lambda: bool(met()), "the refusal is logged", within_s=60.0)
        assert met()[0] == wanted


@pytest.mark.broker
def test_all_that_a_worker_says_is_json(installation: Installation) -> None:
    worker = installation.worker(DIALWATCH_LOG_FORMAT="json")
    worker.terminate()
    assert worker.wait_exit() == 0
    lines = [json.loads(line) for line in worker.log.read_text(encoding="utf-8").splitlines()]
    assert any("took over" in line["message"] for line in lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert not [line for line in lines if "[^" in line["message"]]


@pytest.mark.broker
def test_a_worker_speaks_of_itself_and_not_of_its_framework(installation: Installation) -> None:
    worker = installation.worker()
    worker.terminate()
    assert worker.wait_exit() == 0
    said = worker.log.read_text(encoding="utf-8")
    assert "took over" in said
    assert "[^" not in said
    assert "Starting..." not in said

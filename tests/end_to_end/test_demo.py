"""What a newcomer sees: the demo, and what its worker wrote into its log."""

import asyncio
import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from app.commands.demo import Story, _look, run_in
from app.local import LEAST_CALLS
from streams.records import SCENARIOS
from tests.cli.test_environment import PROXIES

PHONE = re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)")


@pytest.mark.broker
def test_the_demo_shows_all_scenarios_and_its_worker_s_log_names_no_customer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of it is on this machine: the shell's proxies have no part in it.
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    console = Console(file=out, width=100)
    assert run_in(tmp_path, console, calls=LEAST_CALLS, seed=7, stay=False, shown=2) == 0
    said = out.getvalue()
    table = said.partition("Noticed")[2]
    for scenario in SCENARIOS:
        assert re.search(rf"{scenario} +[1-9]", table), said
    assert "calls/s" in said
    # A message as the customer sees it: the template's text, filled in.
    assert "你好！\n  客户名称：" in said
    assert "\n  通知结束\n" in said
    assert "【硅基智能】" in said
    assert PHONE.search(said)
    assert re.search(r"in the console, http://127\.0\.0\.1:\d+/;", said.strip().splitlines()[-2])

    log = (tmp_path / "worker" / "worker.log").read_text()
    assert "took over" in log
    assert not PHONE.search(log)
    for secret in ("oSandbox_", "sandbox-app-secret", "access_token", "Bearer"):
        assert secret not in log
    assert "Traceback" not in log


async def test_a_worker_that_does_not_answer_holds_nobody_up_and_is_not_known_to_be_done() -> None:
    class Worker:
        """Answers that it is done, or not at all, once the one who asked goes on meanwhile."""

        def __init__(self) -> None:
            self.answers = True
            self.others_go_on = threading.Event()

        def get(self, path: str) -> tuple[int, str]:
            assert self.others_go_on.wait(30)
            if not self.answers:
                raise TimeoutError
            return 200, 'dialwatch_records_total{topic="calls"} 7.0\ndialwatch_lag_records{} 0.0'

    worker: Any = Worker()
    topics: Any = SimpleNamespace(calls="calls")
    story = Story(published=7)

    async def look() -> None:
        looking = asyncio.create_task(_look(worker, topics, story, is_all=True))
        await asyncio.sleep(0)
        worker.others_go_on.set()
        await looking
        worker.others_go_on.clear()

    await look()
    assert (story.folded, story.quiet_since is None) == (7, False)
    worker.answers = False
    await look()
    assert story.quiet_since is None

"""What a newcomer sees: the demo, and what its worker wrote into its log."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from app.commands.demo import run_in
from app.local import LEAST_CALLS
from streams.records import SCENARIOS
from tests.cli.test_environment import PROXIES

pytestmark = pytest.mark.broker

PHONE = re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)")


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

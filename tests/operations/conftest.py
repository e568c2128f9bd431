"""One installation in which something of everything has happened; the tests only look at it."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.cli import main
from app.operations.lag import outboxes
from app.settings import PREFIX
from tests.engine.inprocess import eventually
from tests.installation import Installation, Published
from tests.samples import account, call

LINE = "line/1 'x'"
TICK = "2019-01-31T08:30:00+08:00"
ENDED = "2019-01-30T15:52:10+08:00"
ODD = 'a/b "c\'d" [red]🙂'
WISHES: dict[str, Any] = {
    "intent_classes": ["A", "B"],
    "balance_threshold": "50.00",
    "expires_at": "2019-02-20T00:00:00+08:00",
}


def history() -> list[Published]:
    """What the installation is told."""
    return [
        account("acme", **WISHES, phone="13812345678", openid="o1234567890abcdef"),
        account("quiet", openid=None, phone=None),
        account(ODD, name="<b>怪</b>", channels={"unreachable_run": []}),
        # 48 of 50 of one batch, 17 and 33 missing, the last 20 not connected
        *(
            call("acme", index, batch_size=50, result="F" if index >= 30 else "E", balance="60.00")
            for index in range(50)
            if index not in {17, 33}
        ),
        call("acme", 0, result="A", submitted_at="2019-01-30T15:10:00+08:00", batch_size=1),
        call("quiet", 0, batch_size=1, result="E"),
        *(
            call("acme", 10 + index, submitted_at=ENDED, line_id=LINE, result="W")
            for index in range(2)
        ),
        call("quiet", 1, submitted_at=ENDED, line_id=LINE, result="W"),
        *(call("acme", index, result="F", submitted_at=ENDED) for index in range(3)),
        call(ODD, 0, batch_size=3, result="E", balance="1.00"),
        call("acme", 5, batch_size=7),  # invalid: its batch has 50
        Published(
            "recharges",
            "quiet",
            {
                "recharge_id": "r1",
                "account_id": "quiet",
                "amount": "5.00",
                "balance": "5.00",
                "completed_at": ENDED,
            },
        ),
        *(Published("ticks", None, {"at": TICK}, partition) for partition in range(4)),
    ]


@pytest.fixture(scope="session")
def told(
    kafka: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation whose worker has folded `history` and stands idle."""
    made = Installation(kafka, redis_url, tmp_path_factory.mktemp("told"))
    made.variables["DIALWATCH_RUN_LENGTH"] = "50"
    try:
        asyncio.run(_tell(made))
        yield made
    finally:
        made.close()
        shutil.rmtree(made.directory, ignore_errors=True)


async def _tell(made: Installation) -> None:
    await made.create_topics()
    told = history()
    # The worker reads accounts first; of one that comes later a call may be folded before it.
    await made.publish(one for one in told if one.topic == "accounts")
    made.worker()
    await made.publish(one for one in told if one.topic not in {"accounts", "ticks"})
    await made.wait_for(
        "deliveries", lambda found: {one["scenario"] for one in found} >= {"recharge_received"}
    )
    await made.publish(one for one in told if one.topic == "ticks")
    await made.fold_all()

    async def is_sent() -> bool:
        return not any((await made.unfolded(outboxes(made.topics))).values())

    await eventually(is_sent, "the outboxes are empty", within_s=120.0, every_s=0.2)


class Ended(NamedTuple):
    """What a command that was run came to."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The only document on stdout."""
        return json.loads(self.out)

    def rows(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ended]


@pytest.fixture
def run(
    told: Installation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Run a command of the program for that installation, in this process: starting one takes
    longer than most answers."""

    def running(*arguments: str, **variables: str) -> Ended:
        monkeypatch.chdir(tmp_path)
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            monkeypatch.delenv(name)
        for name, value in (told.variables | {"LC_ALL": "C.UTF-8"} | variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["dialwatch", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else -1, *capfd.readouterr())

    return running

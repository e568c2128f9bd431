"""Our four packages have names that others use too."""

import subprocess
import sys
from pathlib import Path

import agents
import app
import streams
import tables
from streams.topics import Topics

ROOT = Path(__file__).parent.parent


def test_the_imported_packages_are_ours() -> None:
    for package in (app, streams, agents, tables):
        assert Path(package.__file__ or "").parent.parent == ROOT


def test_dependencies_point_one_way() -> None:
    forbidden = {
        "streams": ("tables", "agents", "app"),
        "tables": ("agents", "app", "faust"),
        "agents": ("app", "httpx", "aiohttp", "faust"),
    }
    declaring = {ROOT / "agents" / "faust_agents.py", ROOT / "tables" / "faust_tables.py"}
    for package, names in forbidden.items():
        for file in (ROOT / package).rglob("*.py"):
            for line in file.read_text().splitlines():
                words = line.split()
                if words[:1] in (["import"], ["from"]):
                    imported = words[1].partition(".")[0]
                    if imported == "faust" and file in declaring:
                        continue
                    assert imported not in names, f"{file}: {line}"


def test_folds_are_imported_without_faust_s_app() -> None:
    # Replay, console and tests fold without one; `TP` alone is Faust's.
    code = "import agents.register, streams.engine.memory, sys; print('faust.app' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"


def test_topic_names_are_persisted_and_never_change() -> None:
    topics = Topics("p.", "g", 1)
    assert [topic.name for topic in topics.contract()] == [
        "p.call-records",
        "p.recharges",
        "p.accounts",
        "p.announcements",
        "p.ticks",
        "p.notifications",
        "p.inbox-messages",
        "p.deliveries",
        "p.dead-letters",
        "p.wechat-events",
    ]
    assert [topic.name for topic in topics.internal()] == [
        "g-line-segments",
        "g-fan-outs",
        "g-wechat-outbox",
        "g-wechat-bulk-outbox",
        "g-sms-outbox",
        "g-sms-bulk-outbox",
        "g-state-changelog",
        "g-handled-letters",
    ]

"""Our four packages have names that others use too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_no_test_plants_a_private_attribute_of_the_engine() -> None:
    # What a test must replace is given: a takeover, a cycle, a limit (see tests/engine/alone.py).
    private = {name for file in files("streams/engine") for name in _privates(file)}
    assert {"_phase", "_on_commit_failed", "_FINISH_COMMIT_SECONDS"} <= private
    planted = {
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in files("tests")
        for line, name in _planted(ast.parse(file.read_text()))
        if name in private
    }
    assert planted == set()


def test_nobody_asks_a_metric_how_things_are() -> None:
    # Whoever counts something knows it, and a metric's value is its own.
    asking = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in ("app", "agents", "tables", "streams")
        for file in files(package)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"_value", "_sum", "_buckets"}
    }
    assert asking == set()


def test_no_public_class_name_stands_for_two_things() -> None:
    # Who searches for a class finds one, and a reader never asks which is meant.
    defined: dict[str, set[str]] = {}
    for package in ("agents", "app", "streams", "tables"):
        for file in files(package):
            for name in _classes(ast.parse(file.read_text())):
                defined.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


@pytest.mark.parametrize(
    "text",
    [
        "engine._phase = 1",
        "worker.engine._phase: int = 1",
        "a, engine._phase = 1, 2",
        "engine._phase += 1",
        "del engine._phase",
        "engine.states._base[b'x'] = {}",
        "monkeypatch.setattr(engine, '_phase', 1)",
        "monkeypatch.setattr('streams.engine.engine._phase', 1)",
        "setattr(engine, '_phase', 1)",
        "vars(engine)['_phase'] = 1",
        "engine.__dict__['_phase'] = 1",
        "patch.object(Engine, '_phase')",
    ],
)
def test_planting_is_found_however_it_is_written(text: str) -> None:
    [(_, name)] = _planted(ast.parse(text))
    assert name in {"_phase", "_base"}


def test_what_is_read_or_a_test_s_own_is_not_planted() -> None:
    text = "self._phase = engine._phase; f(engine, '_phase'); monkeypatch.setattr(e, 'phase', 1)"
    assert list(_planted(ast.parse(text))) == []


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _classes(tree: ast.Module) -> Iterator[str]:
    """Yield the public classes of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def _privates(file: Path) -> Iterator[str]:
    """Yield what a module keeps to itself: its names, its classes', its objects'."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.attr]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if name.startswith("_") and not name.endswith("__"))


def _planted(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each attribute that is set on something other than `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            if not _is_own(node.value):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            held = node.value
            if isinstance(held, ast.Attribute) and held.attr == "__dict__":
                yield from _named(node.slice)
            elif isinstance(held, ast.Attribute) and not _is_own(held.value):
                yield node.lineno, held.attr
            elif isinstance(held, ast.Call) and getattr(held.func, "id", "") == "vars":
                yield from _named(node.slice)
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in {"setattr", "__setattr__", "delattr", "object"}:
                yield from (found for given in node.args[:2] for found in _named(given))


def _is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in {"self", "cls"}


def _named(given: ast.expr) -> Iterator[tuple[int, str]]:
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        name = given.value.rpartition(".")[2]
        if name.startswith("_"):
            yield given.lineno, name

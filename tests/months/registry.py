"""Which rounds there are: found in `tests/months/rounds`, in the order of modules and lines.

A module's public coroutine functions are rounds; so is each row of its `TESTS`, a name and what
pytest is given for it.
"""

import asyncio
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.installation import PARTITIONS
from tests.months import rounds
from tests.months.month import Month

ROOT = Path(__file__).parents[2]

Act = Callable[[Month], Awaitable[None]]


@dataclass(frozen=True)
class Needs:
    """What a round needs that isn't usual."""

    partitions: int = PARTITIONS
    has_topics: bool = True
    """Are the topics created before it begins?"""
    within_s: float = 1_200.0


@dataclass(frozen=True)
class Kind:
    """One round."""

    name: str
    act: Act
    needs: Needs


def needs(**given: float) -> Callable[[Act], Act]:
    """Say what a round needs; the fields of `Needs`."""

    def mark(act: Act) -> Act:
        act.needs = Needs(**given)  # type: ignore[attr-defined, arg-type]
        return act

    return mark


def find_rounds() -> dict[str, Kind]:
    """Return all rounds by name."""
    found: dict[str, Kind] = {}
    for info in pkgutil.iter_modules(rounds.__path__):
        module = importlib.import_module(f"{rounds.__name__}.{info.name}")
        acts = [
            one
            for name, one in inspect.getmembers(module, inspect.iscoroutinefunction)
            if one.__module__ == module.__name__ and not name.startswith("_")
        ]
        for act in sorted(acts, key=lambda one: one.__code__.co_firstlineno):
            name = act.__name__.replace("_", "-")
            if name in found:
                raise ValueError(f"two rounds have the name {name}")
            found[name] = Kind(name, act, getattr(act, "needs", Needs()))
        for name, tests in getattr(module, "TESTS", {}).items():
            found[name] = Kind(name, _passing(tests), Needs(has_topics=False))
    return found


def _passing(tests: Sequence[str]) -> Act:
    async def act(month: Month) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not browser", "--tb=short", *tests]
        own = {"DIALWATCH_TEST_BOOTSTRAP_SERVERS": month.servers.bootstrap_servers}
        log = month.installation.directory / "pytest.log"
        with log.open("wb") as out:
            running = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=os.environ | own, stdout=out, stderr=out
            )
            code = await running.wait()
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        assert code == 0, f"{last} (log: {log})"
        month.note(last[0])

    return act

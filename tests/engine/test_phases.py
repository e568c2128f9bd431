"""Which phase may follow which, what belongs to each, and that the engine's doors lead there."""

import ast
import asyncio
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka.errors import IllegalGenerationError

from app.settings import load_settings
from app.web.view import WorkerView
from streams.engine import engine as engine_module
from streams.engine.phases import IllegalPhaseError, Phase, check
from streams.engine.types import TP
from streams.kafka.protocol import Membership
from tests.engine.alone import ACCOUNTS, CALLS, OUTBOX, Alone, Reading
from tests.engine.inprocess import eventually

IDLE, TAKING_OVER, RUNNING = Phase.IDLE, Phase.TAKING_OVER, Phase.RUNNING
RECOVERING, ORPHANED = Phase.RECOVERING, Phase.ORPHANED
STOPPING, STOPPED = Phase.STOPPING, Phase.STOPPED

ALLOWED = {
    (IDLE, IDLE): "revoked, or assigned nothing",
    (IDLE, TAKING_OVER): "assigned",
    (TAKING_OVER, RUNNING): "restored",
    (RUNNING, RECOVERING): "a commit failed",
    (RECOVERING, TAKING_OVER): "the cycle has ended",
    (RUNNING, ORPHANED): "fenced",
    (TAKING_OVER, IDLE): "revoked",
    (RUNNING, IDLE): "revoked",
    (RECOVERING, IDLE): "revoked",
    (ORPHANED, IDLE): "revoked",
    (RUNNING, STOPPING): "stop",
    (STOPPING, STOPPED): "the rest is committed, or failed",
    (IDLE, STOPPED): "stop",
    (TAKING_OVER, STOPPED): "stop",
    (RECOVERING, STOPPED): "stop",
    (ORPHANED, STOPPED): "stop",
}
BELONGS = {
    # share of so many partitions, None: none; is there a cycle
    IDLE: {(None, False), (0, False)},
    TAKING_OVER: {(3, False)},
    RUNNING: {(3, True)},
    RECOVERING: {(3, False)},
    ORPHANED: {(None, False)},
    STOPPING: {(3, True)},
    STOPPED: {(None, False)},
}
PAIRS = list(product(Phase, Phase))
HELD = list(product((None, 0, 3), (False, True)))


def named(pair: tuple[Phase, Phase]) -> str:
    return f"{pair[0].name}-{pair[1].name}"


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_a_phase_follows_only_those_it_may(pair: tuple[Phase, Phase]) -> None:
    before, after = pair
    [(partitions, has_cycle), *_] = BELONGS[after]
    if pair in ALLOWED:
        check(before, after, partitions=partitions, has_cycle=has_cycle)
        return
    with pytest.raises(IllegalPhaseError, match=f"{after.name} can't follow {before.name}"):
        check(before, after, partitions=partitions, has_cycle=has_cycle)


@pytest.mark.parametrize("pair", sorted(ALLOWED, key=named), ids=named)
@pytest.mark.parametrize(("partitions", "has_cycle"), HELD)
def test_a_phase_has_what_belongs_to_it_and_nothing_else(
    pair: tuple[Phase, Phase], partitions: int | None, has_cycle: bool
) -> None:
    before, after = pair
    if (partitions, has_cycle) in BELONGS[after]:
        check(before, after, partitions=partitions, has_cycle=has_cycle)
        return
    with pytest.raises(IllegalPhaseError, match=after.name):
        check(before, after, partitions=partitions, has_cycle=has_cycle)


def test_only_one_place_changes_the_phase_and_what_belongs_to_it() -> None:
    tree = ast.parse(Path(engine_module.__file__).read_text())
    [engine] = [node for node in tree.body if getattr(node, "name", "") == "Engine"]
    assert isinstance(engine, ast.ClassDef)
    writers = {
        function.name
        for function in engine.body
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and node.attr in {"_phase", "_share", "_work"}
    }
    assert writers == {"__init__", "_enter"}


async def hanging(attempt: int) -> None:
    await asyncio.sleep(60)


async def in_phase(phase: Phase) -> Alone:
    """Return an engine that was led there through its doors."""
    alone = Alone()
    if phase is TAKING_OVER:
        alone.takeover.script = hanging
        await alone.assign(ACCOUNTS, CALLS, OUTBOX)
    elif phase is STOPPED:
        await alone.engine.stop()
    elif phase is not IDLE:
        await alone.run()
    if phase in {RECOVERING, ORPHANED}:
        alone.takeover.script = hanging
        alone.producer.error = IllegalGenerationError() if phase is ORPHANED else TimeoutError()
        alone.feed(b"k")
    if phase is STOPPING:
        alone.producer.may_commit.clear()
        alone.feed(b"k")
        await eventually(lambda: alone.producer.begun == 1, "the commit is under way")
        alone.stopping = asyncio.create_task(alone.engine.stop())
    await alone.until(phase)
    return alone


def stand(alone: Alone) -> tuple[Phase, bool, bool, bool, bool]:
    """Return the phase, and what others see of it."""
    engine = alone.engine
    return (
        engine.phase,
        engine.is_ready,
        engine.membership is not None,
        bool(engine.assigned),
        engine.reader is not None,
    )


@pytest.mark.parametrize(
    ("phase", "is_ready", "is_member", "is_assigned", "reads"),
    [
        (IDLE, False, False, False, False),
        (TAKING_OVER, False, True, True, False),
        (RUNNING, True, True, True, True),
        (RECOVERING, False, True, True, False),
        (ORPHANED, False, False, False, False),
        (STOPPING, True, True, True, True),
        (STOPPED, False, False, False, False),
    ],
)
async def test_what_others_see_of_each_phase_and_that_a_revocation_and_a_stop_end_it(
    phase: Phase, is_ready: bool, is_member: bool, is_assigned: bool, reads: bool
) -> None:
    alone = await in_phase(phase)
    assert stand(alone) == (phase, is_ready, is_member, is_assigned, reads)
    alone.producer.may_commit.set()
    await alone.engine.on_revoked()
    ended = STOPPED if phase in {STOPPING, STOPPED} else IDLE
    assert stand(alone) == (ended, False, False, False, False)
    if phase not in {IDLE, STOPPED, TAKING_OVER}:
        assert alone.outbox.revoked == [0]

    alone = await in_phase(phase)
    alone.producer.may_commit.set()
    await alone.engine.stop()
    assert stand(alone) == (STOPPED, False, False, False, False)
    await alone.engine.stop()  # again: nothing more
    assert alone.takeover.happened[-1] == "closed"
    assert alone.crashes == []


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        (IDLE, "waiting for group dialwatch to assign partitions"),
        (TAKING_OVER, "restoring the state, 40% done"),
        (RUNNING, None),
        (RECOVERING, "restoring the state, 40% done"),
        # Not "restoring": nothing is here that could be restored.
        (ORPHANED, "waiting for group dialwatch to assign partitions"),
    ],
)
async def test_why_a_worker_is_not_ready_is_what_its_engine_says(
    phase: Phase, reason: str | None
) -> None:
    alone = await in_phase(phase)
    alone.takeover.restored = 0.4
    view = WorkerView(load_settings())
    assert view.rebalances() == 0
    view.worker = SimpleNamespace(engine=alone.engine)  # type: ignore[assignment]
    assert view.not_ready() == reason
    assert view.rebalances() == (0 if phase is IDLE else 1)
    alone.producer.may_commit.set()
    await alone.engine.stop()


@pytest.mark.parametrize("phase", [TAKING_OVER, RUNNING, RECOVERING, ORPHANED])
async def test_what_was_not_revoked_is_never_assigned_over(phase: Phase) -> None:
    alone = await in_phase(phase)
    with pytest.raises(IllegalPhaseError):
        await alone.assign(ACCOUNTS, CALLS, OUTBOX)
    assert alone.engine.phase is phase
    await alone.engine.stop()


async def test_a_spare_is_ready_with_nothing_to_do() -> None:
    alone = Alone()
    await alone.assign()
    assert stand(alone) == (IDLE, True, True, False, False)
    await alone.engine.on_revoked()
    assert stand(alone) == (IDLE, False, False, False, False)
    await alone.run()
    await alone.engine.stop()


async def test_a_commit_that_failed_is_recovered_from_and_folded_again() -> None:
    alone = await in_phase(RUNNING)
    alone.producer.error = TimeoutError()
    alone.feed(b"k")
    await alone.until(RECOVERING)
    alone.producer.error = None
    await alone.until(RUNNING)
    alone.feed(b"k")
    await alone.until_committed(1)
    assert alone.folded == [b"k", b"k"]
    await alone.engine.stop()


async def test_an_orphan_is_assigned_again_after_its_revocation() -> None:
    alone = await in_phase(ORPHANED)
    alone.producer.error = alone.takeover.script = None
    await alone.engine.on_revoked()
    await alone.run()
    assert alone.crashes == []
    await alone.engine.stop()


async def test_a_commit_that_fails_in_a_stop_is_not_recovered_from() -> None:
    alone = await in_phase(STOPPING)
    attempts = alone.takeover.attempts
    alone.producer.error = TimeoutError()
    alone.producer.may_commit.set()
    await alone.stopping
    assert stand(alone) == (STOPPED, False, False, False, False)
    assert (alone.takeover.attempts, alone.producer.offsets) == (attempts, {})
    assert alone.crashes == []


async def test_what_a_stopping_worker_is_assigned_it_does_not_take() -> None:
    alone = await in_phase(STOPPING)
    await alone.engine.on_assigned({TP("calls", 1)}, Membership("group", 2, "member"))
    assert alone.engine.phase is STOPPING
    alone.producer.may_commit.set()
    await alone.stopping
    assert alone.producer.offsets == {CALLS: 1}  # what was folded


async def test_an_engine_is_read_for_by_one_consumer() -> None:
    alone = Alone()
    with pytest.raises(RuntimeError, match="one consumer"):
        alone.engine.bind(Reading())

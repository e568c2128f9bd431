"""Each fold is a Faust agent; the engine says when it folds, and nobody commits half of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from faust.types import StreamT

from app.kafka.admin import open_admin
from streams.engine.chunks import Chunks, NotGivenError
from streams.engine.state import State
from streams.engine.types import TP, Chunk, Source
from tests.engine.declared import Declared
from tests.engine.inprocess import InProcess, eventually
from tests.engine.test_cycle import NUMBERS, remembering
from tests.engine.test_cycle import Engine as CycleAlone
from tests.installation import PATIENCE_SECONDS, Installation
from tests.kafka_admin import offsets
from tests.samples import call

CALLS = TP("calls", 0)
AGENTS = {
    "accounts": "p.accounts",
    "recharges": "p.recharges",
    "calls": "p.call-records",
    "lines": "g-line-segments",
    "ticks": "p.ticks",
    "announcements": "p.announcements",
    "fan-outs": "g-fan-outs",
    "dispatch": "p.notifications",
}


def a_chunk(offset: int = 0) -> Chunk:
    return Chunk(CALLS, [offset], State(0), lambda output: None, lambda: None)  # type: ignore[list-item]


# -- what Faust's reader finds ----------------------------------------------------------------


async def test_every_source_is_an_agent_with_its_topic_and_what_it_is_for() -> None:
    declared = Declared()
    app = declared.app
    assert {name: agent.channel.get_topic_name() for name, agent in app.agents.items()} == AGENTS
    assert {agent.channel.get_topic_name() for agent in app.agents.values()} == set(
        declared.engine.sources
    )
    assert all(agent.help.endswith(".") for agent in app.agents.values())
    assert all(agent.concurrency == 1 for agent in app.agents.values())
    assert all(source.give is not None for source in declared.engine.sources.values())


async def test_agents_add_no_topic_to_what_is_subscribed() -> None:
    declared = Declared()
    subscribed = {name for topic in declared.app.topics for name in topic.topics}
    assert subscribed == set(declared.engine.topics())


# -- a chunk in the hands of an agent ---------------------------------------------------------


@pytest.fixture
async def agent_of() -> AsyncIterator[Callable[[Callable[[Chunk], None]], Any]]:
    """Start the agent of a fold; return what gives it chunks, and the agent."""
    async with AsyncExitStack() as stack:

        async def start(fold: Callable[[Chunk], None]) -> tuple[Any, Any]:
            declared = Declared(Source(Declared.topics.calls, fold))
            agent = declared.app.agents["calls"]
            await agent.start()
            stack.callback(declared.close)
            stack.push_async_callback(agent.stop)
            return declared.engine.sources[Declared.topics.calls].give, agent

        yield start


async def test_a_chunk_is_folded_once_and_whole(agent_of: Any) -> None:
    folded: list[Chunk] = []
    give, _ = await agent_of(folded.append)
    chunks = [a_chunk(number) for number in range(3)]
    for number, chunk in enumerate(chunks, 1):
        await give(chunk)
        assert len(folded) == number
    assert all(one is other for one, other in zip(folded, chunks, strict=True))


async def test_what_a_fold_raises_is_the_engine_s_and_the_agent_goes_on(agent_of: Any) -> None:
    bug = ValueError("a bug")

    def fold(chunk: Chunk) -> None:
        if chunk.records == [0]:
            raise bug

    give, agent = await agent_of(fold)
    with pytest.raises(ValueError, match="a bug") as caught:
        await give(a_chunk(0))
    assert caught.value is bug
    actor = next(iter(agent._actors))
    await give(a_chunk(1))  # Faust has started nothing anew
    assert next(iter(agent._actors)) is actor
    assert not agent.crashed
    assert not agent.app.crashed


async def test_an_agent_that_ends_by_itself_stops_the_worker() -> None:
    # What it is given from then on nobody folds: Faust alone would start it anew, and say so.
    calls, broken = Declared.topics.calls, RuntimeError("broken")
    declared = Declared(Source(calls, lambda chunk: None))
    agent = declared.app.agents["calls"]
    await agent.start()
    give: Any = declared.engine.sources[calls].give
    await give(a_chunk())
    agent.channel.queue._throw(broken)
    await eventually(lambda: declared.crashes == [broken], "the engine has it")
    agent.cancel()  # as Faust's manager does first
    await agent.stop()
    declared.close()


async def test_a_chunk_that_is_taken_back_is_never_folded(agent_of: Any) -> None:
    folded: list[Any] = []
    give, _ = await agent_of(lambda chunk: folded.append(chunk.records))
    give(a_chunk(0)).cancel()
    await give(a_chunk(1))
    assert folded == [[1]]


async def test_nobody_else_sends_to_an_agent(agent_of: Any) -> None:
    folded: list[Any] = []
    give, agent = await agent_of(folded.append)
    for sending in (agent.send(value=b"x"), agent.cast(b"x"), agent.ask_nowait(b"x", reply_to="r")):
        with pytest.raises(NotGivenError, match="publish to the topic"):
            await sending
    await give(a_chunk())
    assert len(folded) == 1


async def test_a_channel_of_faust_s_own_loses_chunks_and_ours_does_not() -> None:
    # Why `Chunks` is no plain `app.channel()`: what is in one of those when the flow resumes after
    # a rebalance is gone, and the cycle would wait for its fold for ever.
    app = Declared().app
    app.flow_control.resume()
    theirs, ours = app.channel(), Chunks(app, "calls")
    iterated = theirs.clone(is_iterator=True)
    await theirs.put(a_chunk())
    ours.give(a_chunk())
    assert not iterated.queue.empty()
    assert not ours.queue.empty()

    app.flow_control.suspend()
    app.flow_control.resume()
    assert iterated.queue.empty()
    assert not ours.queue.empty()


async def test_faust_drops_an_event_while_the_flow_is_suspended() -> None:
    # Why chunks travel bare, and not as Faust's events: nobody would be told.
    declared = Declared()
    app = declared.app
    app.flow_control.resume()
    channel, seen = app.channel(), list[bytes]()

    @app.agent(channel, name="stock")
    async def stock(values: StreamT[bytes]) -> None:
        async for value in values:
            seen.append(value)

    await stock.start()
    await channel.send(value=b"seen")
    await eventually(lambda: seen == [b"seen"], "the first is read")
    await channel.send(value=b"lost")
    app.flow_control.suspend()
    await asyncio.sleep(0.1)
    app.flow_control.resume()
    await asyncio.sleep(0.1)
    await stock.stop()
    declared.close()
    assert seen == [b"seen"]


# -- the cycle and a chunk that is not folded yet ------------------------------------------------


class SlowAgent:
    """Folds what it is given when the test says so."""

    def __init__(self) -> None:
        self.given: list[tuple[Chunk, asyncio.Future[None]]] = []

    def give(self, chunk: Chunk) -> asyncio.Future[None]:
        self.given.append((chunk, asyncio.get_running_loop().create_future()))
        return self.given[-1][1]

    def fold(self) -> None:
        chunk, folded = self.given[-1]
        remembering(chunk)
        folded.set_result(None)


async def half_done() -> tuple[CycleAlone, SlowAgent, asyncio.Task[None]]:
    """Return a cycle whose agent has a chunk of two records and hasn't folded it."""
    slow = SlowAgent()
    alone = CycleAlone(Source("calls", remembering, is_timed=True, give=slow.give))
    running = asyncio.create_task(alone.cycle.run())
    alone.feed("calls", 0, ["a", "b"])
    await eventually(lambda: bool(slow.given), "the chunk is given")
    return alone, slow, running


async def test_a_stop_commits_a_chunk_that_was_given_whole() -> None:
    alone, slow, running = await half_done()
    stopping = asyncio.create_task(alone.cycle.commit_rest(5))
    await asyncio.sleep(0.1)  # a commit is long due
    assert alone.producer.history == []
    slow.fold()
    await stopping
    assert await alone.cycle.finish_commit(5)
    await running
    assert alone.producer.offsets == {CALLS: 2}


async def test_a_revocation_waits_for_the_fold_and_drops_it() -> None:
    alone, slow, running = await half_done()
    revoking = asyncio.create_task(alone.cycle.finish_commit(5))
    await asyncio.sleep(0.1)
    assert not revoking.done()
    slow.fold()
    assert await revoking
    await running
    state = slow.given[0][0].state
    assert state.loaded() == 0  # discarded after the fold, not before it
    assert alone.producer.offsets == {}


async def test_a_revocation_takes_a_chunk_back_from_an_agent_that_is_gone() -> None:
    alone, slow, running = await half_done()
    assert await alone.cycle.finish_commit(0.05)
    assert slow.given[0][1].cancelled()
    await asyncio.wait([running], timeout=5)
    assert running.cancelled()
    assert alone.producer.offsets == {}


async def test_nothing_of_a_chunk_is_committed_whose_fold_raises_during_a_stop() -> None:
    alone, slow, running = await half_done()
    stopping = asyncio.create_task(alone.cycle.commit_rest(5))
    await asyncio.sleep(0.05)
    chunk, folded = slow.given[0]
    chunk.state.put(NUMBERS, b"a", 1)  # half of it is done
    folded.set_exception(ValueError("a bug"))
    await stopping
    with pytest.raises(ValueError, match="a bug"):
        await running
    await alone.cycle.finish_commit(1)
    assert alone.producer.history == []


# -- on a real broker ---------------------------------------------------------------------------


@pytest.mark.broker
async def test_a_fold_that_raises_stops_the_worker_and_commits_nothing_of_it(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.create_topics()
    before = await topics_of(installation)
    folded: list[int] = []

    def fold(chunk: Chunk) -> None:
        if folded:
            raise ValueError("a bug")
        folded.append(len(chunk.records))

    async def is_first_committed() -> bool:
        """Is it, and the second one not?"""
        committed = (await offsets(installation, installation.topics.calls)).values()
        return 1 in committed and 2 not in committed

    topics = installation.topics
    worker = InProcess(installation, "w", tmp_path, fold_calls=fold)
    await worker.start()
    try:
        await eventually(lambda: worker.engine.is_ready and bool(worker.engine.assigned), "ready")
        assert {tp.topic for tp in worker.engine.assigned} == {topics.accounts, topics.calls}
        await installation.publish([call("a", 0)])
        await eventually(is_first_committed, "the first is committed")
        await installation.publish([call("a", 1)])
        await eventually(lambda: bool(worker.crashes), "the engine has it")
        assert [str(error) for error in worker.crashes] == ["a bug"]
        assert not worker.app.crashed  # Faust has no part in it
    finally:
        await worker.stop()
    assert await is_first_committed()
    # Neither the agents nor the tables have topics of their own.
    assert await topics_of(installation) == before


async def topics_of(installation: Installation) -> set[str]:
    async with open_admin(installation.settings(), timeout_s=PATIENCE_SECONDS) as admin:
        standing = await admin.partition_counts()
    return {name for name in standing if name.startswith(installation.name)}

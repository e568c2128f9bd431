"""The rules as Faust agents: `app.agents` lists them, each with its topic and what it is for.

The loop is the same for all: take a chunk, fold it. The folds themselves are in the other modules,
which know nothing of Faust: the replay and the tests call them without an app.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import faust
from faust.types import StreamT

from streams.engine.chunks import Chunks
from streams.engine.engine import Engine
from streams.engine.types import Chunk, Source
from streams.topics import Topics


def declare_agents(app: faust.App, engine: Engine, topics: Topics) -> None:
    """Make an agent of each of the engine's sources. To be called once, when all are added."""
    told = {
        topics.accounts: ("accounts", "Remembers what customers chose; forgets who left."),
        topics.recharges: ("recharges", "Tells whose money arrived, and whose balance is low."),
        topics.calls: ("calls", "Looks at every finished call: batch, runs, balance, interest."),
        topics.line_segments: ("lines", "Counts the errors in a row of each line."),
        topics.ticks: ("ticks", "Lets time pass: reminds, and forgets what is over."),
        topics.announcements: ("announcements", "Copies an announcement into every partition."),
        topics.fan_outs: ("fan-outs", "Tells a partition's accounts of it, in portions."),
        topics.notifications: ("dispatch", "Delivers to inboxes; passes on what goes by HTTP."),
    }
    for source in list(engine.sources.values()):
        name, purpose = told.get(source.topic, (source.topic, ""))
        chunks = Chunks(app, source.topic)
        agent = app.agent(chunks, name=name)(_loop(chunks, source))
        agent.help = purpose
        engine.add_source(replace(source, give=chunks.give))


def _loop(chunks: Chunks, source: Source) -> Callable[[StreamT[Chunk]], Awaitable[None]]:
    async def loop(given: StreamT[Chunk]) -> None:
        async for chunk in given:
            with chunks.turn():
                source.fold(chunk)

    return loop

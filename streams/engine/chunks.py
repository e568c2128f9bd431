"""How a Faust agent gets its chunks: one at a time, and the cycle waits until each is folded.

A channel of Faust's own loses what is in it when the flow resumes after a rebalance, and a Faust
`Event` of an older generation is dropped without a word: the cycle would wait for ever for its
fold. So the queue here is under nobody's flow control, and what travels is the bare chunk. When
a chunk is folded, in which transaction and whether at all stays the engine's.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import faust
from faust.channels import Channel
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from streams.engine.types import Chunk


class NotGivenError(Exception):
    """Somebody else than the engine sent something to an agent."""


class Chunks(Channel[Chunk]):  # type: ignore[misc]
    """What one agent reads: the chunks of one source, handed over by the engine."""

    def __init__(self, app: faust.App, topic: str) -> None:
        super().__init__(
            app, queue=ThrowableQueue(flow_control=FlowControlEvent(initially_suspended=False))
        )
        self._topic = topic
        self._folded: asyncio.Future[None]
        """Of the chunk that the agent took last."""

    def get_topic_name(self) -> str:
        """Return the topic that the chunks are read from, as `faust agents` shows it."""
        return self._topic

    def give(self, chunk: Chunk) -> asyncio.Future[None]:
        """Hand over a chunk. Return what is done when it is folded, with what the fold raised.

        Cancel it to take the chunk back: one that the agent hasn't begun is then never folded.
        """
        folded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((chunk, folded))
        return folded

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Fold the chunk that was taken last. What that raises is the engine's, who stops the
        worker; the agent would be started anew by Faust, and go on."""
        folded = self._folded
        try:
            yield
        except Exception as error:
            folded.set_exception(error)
        else:
            folded.set_result(None)

    async def __anext__(self) -> Chunk:
        """Return the next chunk. Its fold must follow without an await between."""
        while True:
            chunk, folded = await self.queue.get()
            if not folded.cancelled():
                self._folded = folded
                return chunk  # type: ignore[no-any-return]

    def clone(self, *, is_iterator: bool | None = None, **kwargs: Any) -> Self:
        """Return itself: one agent reads it, and nobody else."""
        if is_iterator:
            self.is_iterator: bool = True
        return self

    async def put(self, value: Any) -> NoReturn:
        """Raise NotGivenError: `agent.send`, `cast` and `ask` all come here."""
        raise NotGivenError(
            f"only the engine gives chunks to the agent of {self._topic}: publish to the topic"
        )

    def __str__(self) -> str:
        return self._topic

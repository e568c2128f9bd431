"""How a Faust agent gets its chunks: one at a time, and the cycle waits until each is folded.

Faust's own channel loses its content when the flow resumes after a rebalance, and drops an `Event`
of an older generation silently: the cycle would wait for ever. So this channel has a queue without
Faust's flow control and carries the chunk itself. The engine decides whether and when a chunk is
folded, and in which transaction.
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
    """Code other than the engine sent something to an agent."""


class Chunks(Channel[Chunk]):  # type: ignore[misc]
    """The channel of one agent: the chunks of one source, given by the engine."""

    def __init__(self, app: faust.App, topic: str) -> None:
        super().__init__(
            app, queue=ThrowableQueue(flow_control=FlowControlEvent(initially_suspended=False))
        )
        self._topic = topic
        self._folded: asyncio.Future[None]
        """Done when the chunk that the agent took last is folded."""

    def get_topic_name(self) -> str:
        """Return the name of the source topic, which `faust agents` shows."""
        return self._topic

    def give(self, chunk: Chunk) -> asyncio.Future[None]:
        """Give a chunk to the agent. Return a future that is done when the chunk is folded, or
        fails with what the fold raised.

        Cancelling it takes the chunk back: if the agent hasn't begun it, it is never folded.
        """
        folded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((chunk, folded))
        return folded

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The context in which the chunk taken last is folded. What the fold raises goes to the
        engine, which stops the worker; in the agent Faust would only restart the agent."""
        folded = self._folded
        try:
            yield
        except Exception as error:
            folded.set_exception(error)
        else:
            folded.set_result(None)

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk and return it. It must be folded without an await in between."""
        while True:
            chunk, folded = await self.queue.get()
            if not folded.cancelled():
                self._folded = folded
                return chunk  # type: ignore[no-any-return]

    def clone(self, *, is_iterator: bool | None = None, **kwargs: Any) -> Self:
        """Return this channel itself: only one agent reads it."""
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

"""A worker's engine and Faust app that are declared and never started: no broker, no senders."""

from datetime import UTC

from agents.register import dispatching, watching
from agents.rules import Rules
from app.faust_app import create_app
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.engine.types import Source
from streams.topics import Topics

NOBODY = "127.0.0.1:9"


class Declared:
    """An engine and app with the given rules. `others` replace the sources of the same topics."""

    topics = Topics("p.", "g", 4)

    def __init__(self, *others: Source, rules: Rules = Rules(zone=UTC)) -> None:  # noqa: B008 (frozen)
        topics = self.topics
        self.crashes: list[Exception] = []
        self.engine = Engine(
            EngineConfig(
                group=topics.group,
                worker_id="w",
                changelog=topics.changelog,
                output_topics=topics.outputs(),
                queues=topics.queues(),
                session_timeout_s=6.0,
                client_options={"bootstrap_servers": NOBODY},
            ),
            self.crashes.append,
        )
        for source in [*watching(rules, topics), dispatching(rules, topics), *others]:
            self.engine.add_source(source)
        self.app = create_app(
            self.engine,
            topics,
            rules,
            client_id="w",
            brokers=[NOBODY],
            credentials=None,
            datadir="never-written",
            session_timeout_s=6.0,
        )

    def close(self) -> None:
        """Close the event loop of the consumer's thread, which starting an agent makes."""
        if self.app._consumer is not None:
            self.app._consumer._thread.thread_loop.close()

"""The names and limits that a worker's engine is given at its start."""

from dataclasses import dataclass
from typing import Any

from streams.engine.refused import Instead


@dataclass(frozen=True)
class EngineConfig:
    """Names and limits of one worker."""

    group: str
    worker_id: str
    """Stable over restarts, different for every worker that runs."""
    changelog: str
    output_topics: tuple[str, ...]
    queues: frozenset[str]
    """Topics that only this group uses: records that it has worked off are deleted there."""
    session_timeout_s: float
    client_options: dict[str, Any]
    """Bootstrap servers and security, by aiokafka's parameter names."""
    instead: Instead | None = None
    """Returns what to write in place of a record that Kafka refuses for good; None: stop then."""
    max_poll_interval_s: float = 300.0
    """A worker whose event loop, or whose reading, stands still for this long leaves the group."""
    log_patience_s: float = 60.0
    """How long to wait for a log whose end lies before what was read of it, which brokers that have
    just started may not show yet."""
    tidy_every_s: float = 10.0
    """How often to delete what is worked off and to check that the topics are still the same."""
    out_of_group_s: float = 90.0
    """A worker that gets no share for this long, although the group answers, reports itself as
    unwell; after twice that it ends. Longer than a rebalance, which may wait 60 s for a member."""
    no_progress_s: float = 30.0
    """A takeover without progress for this long is begun again. Longer than any transaction stays
    pending: 10 s until it times out, and up to 10 s more until Kafka notices."""
    again_after_s: float = 1.0
    """The shortest pause before a failed attempt, or the search for a topic, is repeated."""

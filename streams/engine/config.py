"""What one worker's engine is told at its start: names and limits."""

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
    """Topics that nobody but the group knows: what it has worked off is deleted from them."""
    session_timeout_s: float
    client_options: dict[str, Any]
    """Bootstrap servers and security, as aiokafka names them."""
    instead: Instead | None = None
    """What to write where Kafka refuses a record for good; None: stop."""
    max_poll_interval_s: float = 300.0
    """A worker whose event loop or reading stands still for so long leaves the group."""
    log_patience_s: float = 15.0
    """How long a log may end before what was read of it: its last marker may not be visible yet."""
    tidy_every_s: float = 10.0
    """How often to look for what is done with, and whether the topics still are the same."""
    out_of_group_s: float = 90.0
    """A worker that the group, while it answers, gives nothing for so long isn't well; after
    twice that it ends. Longer than a rebalance, which may wait 60 s for a member."""
    no_progress_s: float = 30.0
    """A takeover in which nothing moves for so long is begun again. Longer than any transaction
    stays pending: 10 s until it times out, 10 more until Kafka looks."""
    again_after_s: float = 1.0
    """The pause before what failed is tried again, or a topic looked for again: its shortest."""

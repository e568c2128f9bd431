"""The Faust app of a worker: its agents and tables, group, assignor and consumer thread.

The engine does the rest: it says when an agent folds, and what one transaction is.
"""

import ssl
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.types import AgentT

from agents.faust_agents import declare_agents
from agents.rules import Rules
from streams.engine.consumer import attach
from streams.engine.engine import Engine
from streams.engine.table_views import StateTable, TableViews
from streams.topics import Topics
from tables.faust_tables import declare_tables


class _WithoutProducer(BootStrategy):  # type: ignore[misc]
    enable_kafka_producer = False  # the engine has its own, transactional, one


class _App(faust.App):  # type: ignore[misc]
    BootStrategy = _WithoutProducer
    engine: Engine

    async def _on_agent_error(self, agent: AgentT, exc: BaseException) -> None:
        # Not a fold's, which the engine has at once: the agent itself ended, and what it is given
        # from now on nobody folds.
        self.engine.crash(exc if isinstance(exc, Exception) else RuntimeError(repr(exc)))


def create_app(
    engine: Engine,
    topics: Topics,
    rules: Rules,
    *,
    client_id: str,
    brokers: list[str],
    credentials: faust.SASLCredentials | faust.SSLCredentials | None,
    datadir: str,
    session_timeout_s: float,
) -> faust.App:
    """Return an app that reads what the engine wants and folds when it says so; start and stop it
    as a service. To be called when the engine has all its sources and outboxes.

    `client_id`: what the broker and its tools call this worker.
    """
    app = _App(
        engine.config.group,
        # Else 80 names without a prefix (WEB_PORT, BROKER_URL, DEBUG, …) beat what is given here.
        env={},
        broker=[f"kafka://{broker}" for broker in brokers],
        broker_client_id=client_id,
        broker_credentials=credentials,
        datadir=datadir,
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        # The engine seeks to every partition's offset itself: a silent reset loses records.
        consumer_auto_offset_reset="none",
        consumer_max_fetch_size=1 << 20,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=min(session_timeout_s / 4, 3.0),
        broker_request_timeout=max(30.0, session_timeout_s),
        broker_rebalance_timeout=60.0,
        broker_max_poll_interval=engine.config.max_poll_interval_s,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        stream_processing_timeout=300.0,
        table_standby_replicas=0,
        Table=StateTable,
        TableManager=TableViews,
    )
    app.engine = engine
    app.finalize()
    attach(app, engine)
    declare_agents(app, engine, topics)
    declare_tables(
        app,
        engine,
        topics,
        run_window=rules.run_window,
        run_retention=rules.run_retention,
        batch_retention=rules.batch_retention,
    )
    return app


def never_start(app: faust.App) -> None:
    """Let an app be looked at only: Faust's `worker` command would start one without senders."""

    async def refuse() -> None:
        raise RuntimeError("this app is to be looked at only: start workers by `dialwatch worker`")

    app.on_first_start = refuse


def credentials_for(options: dict[str, Any]) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Return aiokafka's client options as what Faust calls credentials."""
    context: ssl.SSLContext | None = options.get("ssl_context")
    protocol = options.get("security_protocol", "PLAINTEXT")
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=options["sasl_mechanism"],
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)

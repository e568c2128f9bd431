"""The Faust app of a worker: group, assignor and consumer thread; the engine does the rest."""

import ssl
from typing import Any

import faust
from faust.app.base import BootStrategy

from streams.engine.consumer import attach
from streams.engine.engine import Engine


class _WithoutProducer(BootStrategy):  # type: ignore[misc]
    enable_kafka_producer = False  # the engine has its own, transactional, one


class _App(faust.App):  # type: ignore[misc]
    BootStrategy = _WithoutProducer


def create_app(
    engine: Engine,
    *,
    client_id: str,
    brokers: list[str],
    credentials: faust.SASLCredentials | faust.SSLCredentials | None,
    datadir: str,
    session_timeout_s: float,
) -> faust.App:
    """Return an app that reads what the engine wants; start and stop it as a service.

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
    )
    app.finalize()
    attach(app, engine)
    return app


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

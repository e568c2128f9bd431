"""The wiring: topics → rules → channels, as one worker. Importing this does nothing.

`faust -A app.main agents` and `faust -A app.main tables` list what a worker is made of.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import faust
import httpx
from redis.asyncio import Redis

from agents.lookup import account_lookup
from agents.metrics import expect_outcomes, expect_topics
from agents.register import dispatching, watching
from agents.replacements import instead_of
from agents.send import MOST_AT_ONCE, SendAgent
from app.channels.sms import SMS_CODES, SMS_SKIPS, build_sms
from app.channels.wechat.channel import WECHAT_SKIPS, build_wechat
from app.channels.wechat.outcomes import parse_rules
from app.faust_app import create_app, credentials_for, never_start
from app.kafka.publisher import Publisher
from app.ledger import RedisLedger
from app.operations.lag import WORKER_CLIENT
from app.settings import Settings, load_settings
from app.shared_holds import share_holds
from streams.engine.config import EngineConfig
from streams.engine.engine import Engine
from streams.topics import Topics

MOST_BULK_AT_ONCE = 8


@dataclass(frozen=True)
class Worker:
    """All parts of a worker, wired and not started."""

    settings: Settings
    topics: Topics
    engine: Engine
    app: faust.App
    senders: tuple[SendAgent, ...]
    publisher: Publisher
    redis: Redis
    worker_id: str

    def share_holds(self) -> Coroutine[Any, Any, None]:
        """Publish the channels' holds in Redis; see `app/shared_holds.py`."""
        return share_holds(
            self.redis,
            self.settings.group,
            self.worker_id,
            lambda: [hold for sender in self.senders for hold in sender.holds()],
        )

    def seconds_since_poll(self) -> float | None:
        """Return how many seconds ago the consumer polled last; None: it hasn't begun."""
        consumer = self.app._consumer
        polled: float | None = getattr(consumer, "last_poll", None)
        return None if polled is None else asyncio.get_running_loop().time() - polled


def create_worker(
    settings: Settings,
    topics: Topics,
    worker_id: str,
    redis: Redis,
    http: httpx.AsyncClient,
    publisher: Publisher,
    crash: Callable[[Exception], None],
) -> Worker:
    """Wire one worker: the whole product on one page. `crash`: stops it because of an error."""
    engine = _folding_engine(settings, topics, worker_id, crash)
    expect_topics(topics)
    lookup = account_lookup(engine.state_of, topics.partitions)
    ledger = RedisLedger(redis, prefix=settings.group)
    wechat, sms = build_wechat(settings, redis, http), build_sms(settings, http)
    expect_outcomes(wechat.name, codes=parse_rules(settings.wechat_rules), skipped=WECHAT_SKIPS)
    expect_outcomes(sms.name, codes=SMS_CODES, skipped=SMS_SKIPS)
    senders = tuple(
        SendAgent(
            channel,
            topic=topic,
            deliveries=topics.deliveries,
            dead_letters=topics.dead_letters,
            ledger=ledger,
            lookup=lookup,
            zone=settings.zone,
            most_at_once=most_at_once,
        )
        for channel, topic, most_at_once in (
            (wechat, topics.wechat_outbox, MOST_AT_ONCE),
            (wechat, topics.wechat_bulk_outbox, MOST_BULK_AT_ONCE),
            (sms, topics.sms_outbox, MOST_AT_ONCE),
            (sms, topics.sms_bulk_outbox, MOST_BULK_AT_ONCE),
        )
    )
    for sender in senders:
        engine.add_outbox(sender)

    app = _app_of(settings, topics, engine)
    return Worker(settings, topics, engine, app, senders, publisher, redis, worker_id)


def _folding_engine(
    settings: Settings, topics: Topics, worker_id: str, crash: Callable[[Exception], None]
) -> Engine:
    engine = Engine(
        EngineConfig(
            group=settings.group,
            worker_id=worker_id,
            changelog=topics.changelog,
            output_topics=topics.outputs(),
            queues=topics.queues(),
            session_timeout_s=settings.session_timeout_seconds,
            client_options=settings.kafka_client_options(),
            instead=instead_of(topics, settings.zone),
        ),
        crash,
    )
    rules = settings.rules
    for source in (*watching(rules, topics), dispatching(rules, topics)):
        engine.add_source(source)
    return engine


def _app_of(settings: Settings, topics: Topics, engine: Engine) -> faust.App:
    options = settings.kafka_client_options()
    return create_app(
        engine,
        topics,
        settings.rules,
        client_id=f"{WORKER_CLIENT}{engine.config.worker_id}",
        brokers=options["bootstrap_servers"],
        credentials=credentials_for(options),
        datadir=str(settings.datadir),
        session_timeout_s=settings.session_timeout_seconds,
    )


def __getattr__(name: str) -> Any:
    """Return the Faust app of the present settings under the name `app`, for Faust's command line.
    It can't be started: workers are started by `dialwatch worker`."""
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    settings = load_settings()
    engine = _folding_engine(settings, settings.topics, "described", lambda error: None)
    app = _app_of(settings, settings.topics, engine)
    never_start(app)
    return app

"""Transactions that hang are ended as Kafka had ended them, or the worker says why it can't."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.engine.hanging import Verdict, judge, judge_by_spans
from streams.engine.types import TP
from streams.kafka.transactions import OpenTransaction, Span, TransactionState
from tests.installation import Installation, Published
from tests.strict_kafka import StrictKafka, Written, leave_hanging

LONG_AGO_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictKafka]:
    server = StrictKafka(tmp_path_factory.mktemp("strict"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def installation(strict: StrictKafka, redis_url: str, tmp_path: Path) -> Any:
    made = Installation(strict.bootstrap_servers, redis_url, tmp_path)
    made.variables["DIALWATCH_PARTITIONS"] = "1"
    await made.create_topics()
    yield made
    for worker in made.workers:
        worker.kill()


def _recharge(number: int) -> Published:
    value = {
        "recharge_id": f"r{number}",
        "account_id": "acme",
        "amount": "1.00",
        "balance": "2.00",
        "completed_at": "2026-11-01T10:00:00+08:00",
    }
    return Published("recharges", "acme", value, 0)


async def _a_worker_that_stopped(installation: Installation) -> tuple[Any, str]:
    """Return it and its transactional id."""
    await installation.publish([_recharge(1)])
    worker = installation.worker()
    await installation.wait_for("notifications", lambda found: len(found) == 3)
    worker.stop()
    own = (worker.directory / "data" / "worker-id").read_text().strip()
    return worker, f"{installation.name}-{own}"


@pytest.mark.broker
@pytest.mark.parametrize("is_commit", [True, False])
async def test_what_hangs_is_ended_as_its_coordinator_says(
    is_commit: bool, installation: Installation
) -> None:
    worker, name = await _a_worker_that_stopped(installation)
    topics = installation.topics
    changelog, inbox = TP(topics.changelog, 0), TP(topics.inbox_messages, 0)
    await leave_hanging(
        installation.brokers,
        name,
        is_commit=is_commit,
        written=[Written(TP(topics.deliveries, 0), b"acme", b"{}")],
        hanging=[Written(changelog, b"zz", b"late"), Written(inbox, b"acme", b"late")],
    )
    await installation.publish([_recharge(2)])
    worker.start()
    await installation.wait_for("notifications", lambda found: len(found) == 6, 20.0)
    late = [one.value for one in await installation.read("inbox-messages")].count(b"late")
    assert late == is_commit
    assert "hangs in" in worker.log.read_text()


def _open(epoch: int = 3, partition: int = 0) -> OpenTransaction:
    return OpenTransaction(TP("changelog", partition), 7, epoch, 0, 100, LONG_AGO_MS)


def _known(state: str, epoch: int = 3, producer_id: int = 7) -> TransactionState:
    tps = frozenset({TP("changelog", 0)}) if state in {"Ongoing", "PrepareCommit"} else frozenset()
    return TransactionState("group-1", state, producer_id, epoch, tps)


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (_known("Ongoing"), Verdict.OPEN),
        (_known("PrepareCommit"), Verdict.OPEN),
        (_known("CompleteCommit"), Verdict.COMMITTED),
        (_known("CompleteAbort"), Verdict.ABORTED),
        # Timed out: the epoch is raised, then it is aborted.
        (_known("CompleteAbort", epoch=4), Verdict.ABORTED),
        # InitProducerId came first, and then another transaction was committed.
        (_known("CompleteCommit", epoch=4), Verdict.UNKNOWN),
        (_known("Empty", epoch=4), Verdict.UNKNOWN),
        (_known("CompleteCommit", producer_id=8), Verdict.UNKNOWN),
        (None, Verdict.UNKNOWN),
    ],
)
def test_how_an_open_transaction_stands(known: TransactionState | None, verdict: Verdict) -> None:
    assert judge(_open(), known) is verdict


def test_a_later_transaction_elsewhere_says_nothing_of_what_hangs_here() -> None:
    assert judge(_open(partition=1), _known("Ongoing")) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("spans", "verdict"),
    [
        ([], Verdict.UNKNOWN),
        ([Span(3, 1000, 3, True)], Verdict.COMMITTED),
        ([Span(3, 1000, 3, False)], Verdict.ABORTED),
        ([Span(3, 999, 3, True)], Verdict.UNKNOWN),  # may be the one before
        ([Span(3, 999, 4, False)], Verdict.ABORTED),  # fenced: it was the last one
        ([Span(3, 1000, 3, True), Span(4, 2000, 4, False)], Verdict.COMMITTED),
        ([Span(2, 1000, 2, True)], Verdict.UNKNOWN),
    ],
)
def test_what_other_partitions_tell(spans: list[Span], verdict: Verdict) -> None:
    assert judge_by_spans(3, 1000, spans) is verdict

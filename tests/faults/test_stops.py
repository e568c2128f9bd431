"""Where going on would lose records, a worker stops: exit 1 and a line that says what to do."""

import pytest

from app.local.worker import WorkerProcess
from streams.engine.types import TP
from tests.installation import Installation, Published
from tests.kafka_admin import delete_before


def _recharge(number: int) -> Published:
    value = {
        "recharge_id": f"r{number}",
        "account_id": "acme",
        "amount": "1.00",
        "balance": "2.00",
        "completed_at": "2026-11-01T10:00:00+08:00",
    }
    return Published("recharges", "acme", value, 0)


def _last_line(worker: WorkerProcess) -> str:
    return worker.log.read_text(encoding="utf-8").strip().splitlines()[-1]


async def _stopped_after(installation: Installation, count: int) -> WorkerProcess:
    await installation.publish(_recharge(number) for number in range(count))
    worker = installation.worker()
    await installation.wait_for("notifications", lambda found: len(found) == 3 * count)
    worker.stop()
    return worker


@pytest.mark.broker
async def test_records_that_were_deleted_unread_are_not_passed_over(
    installation: Installation,
) -> None:
    worker = await _stopped_after(installation, 3)
    await installation.publish(_recharge(number) for number in range(3, 8))
    await delete_before(installation, {TP(f"{installation.name}.recharges", 0): 6})

    worker.launch()
    assert worker.wait_exit() == 1
    assert "goes on at offset 3, but the log holds 6 to 8" in _last_line(worker)
    assert "--reset-offsets" in _last_line(worker)
    assert len(await installation.read("notifications")) == 9


@pytest.mark.broker
async def test_a_state_of_which_a_part_was_deleted_is_not_restored(
    installation: Installation,
) -> None:
    worker = await _stopped_after(installation, 3)
    # Kafka deletes nothing of a topic that is compacted alone: somebody changed that.
    await installation.configure(
        installation.topics.changelog, {"cleanup.policy": "compact,delete"}
    )
    await delete_before(installation, {TP(installation.topics.changelog, 0): 1})

    worker.launch()
    assert worker.wait_exit() == 1
    assert "a part of what is remembered was deleted" in _last_line(worker)

"""`dialwatch send-test`: send one real WeChat message the whole way, and print what becomes of it.

The command goes into `notifications` like any other; a running worker sends it.
"""

import asyncio
import json
import secrets
import sys
from contextlib import suppress
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.errors import CommandError
from app.kafka.admin import open_admin
from app.kafka.publisher import Publisher
from app.settings import Settings
from streams.records import Notification, encode

CONNECT_SECONDS = 15.0
RECEIPT_SECONDS = 10.0
_FINAL = {"sent": 0, "skipped": 1, "failed": 1}


def run_send_test(settings: Settings, *, account: str, timeout_s: float) -> int:
    """Print each `deliveries` record of the message as a JSON line.

    Return 0 when WeChat accepted it, 1 when it was skipped or failed. Raises CommandError when no
    worker answers in time.
    """
    try:
        return asyncio.run(_send(settings, account, timeout_s))
    except KafkaError as error:
        raise CommandError(
            f"Kafka went away ({type(error).__name__}): look into {settings.topics.deliveries}"
        ) from None


async def _send(settings: Settings, account: str, timeout_s: float) -> int:
    async with open_admin(settings, timeout_s=CONNECT_SECONDS) as admin:
        counts = await admin.partition_counts()
    topics = settings.topics
    if topics.notifications not in counts or topics.deliveries not in counts:
        raise CommandError(
            f"there is no topic {topics.notifications}: start a worker, or run "
            "`dialwatch topics create`"
        )
    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="latest",
    )
    publisher = Publisher(settings.kafka_client_options())
    try:
        await consumer.start()
        tps = [TopicPartition(topics.deliveries, n) for n in range(counts[topics.deliveries])]
        consumer.assign(tps)
        await consumer.seek_to_end(*tps)
        command = _command(settings, account)
        await publisher.publish(topics.notifications, account.encode(), encode(command))
        print(f"published {command.notification_id}, waiting for a worker", file=sys.stderr)
        return await _follow(consumer, command.notification_id, timeout_s)
    finally:
        await consumer.stop()
        await publisher.close()


async def _follow(consumer: AIOKafkaConsumer, notification_id: str, timeout_s: float) -> int:
    """Print a notification's deliveries: how it ended, and WeChat's later word."""
    code: int | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s) as limit:
            async for record in consumer:
                said = json.loads(record.value)
                if said["notification_id"] != notification_id:
                    continue
                print(json.dumps(said, ensure_ascii=False), flush=True)
                if said["status"] not in _FINAL:
                    return 0 if said["status"] == "delivered" else 1
                code = _FINAL[said["status"]]
                if code:
                    return code
                # WeChat's later word comes only where the callback is set up.
                limit.reschedule(asyncio.get_running_loop().time() + RECEIPT_SECONDS)
    if code is None:
        raise CommandError(
            f"nothing became of it within {timeout_s:.0f} s: is a worker of this group running, "
            "and does its /ready show a hold?"
        )
    print("WeChat took it; no word on its delivery came (is the callback set up?)", file=sys.stderr)
    return code


def _command(settings: Settings, account: str) -> Notification:
    return Notification(
        notification_id=f"test-{secrets.token_hex(12)}",
        scenario="test",
        account_id=account,
        channel="wechat",
        occurred_at=datetime.now(settings.zone).isoformat(timespec="seconds"),
        title="测试消息",
        content="这是一条测试消息",
        page=None,
        cause={},
    )

"""Publish the finished calls of one small batch, as a dialer does it.

    python docs/examples/publish_calls.py 127.0.0.1:9092 [TOPIC]

Ten calls of one account, none connected, each delivered once although the program may try again.
"""

import asyncio
import json
import sys
from datetime import datetime, timedelta, timezone

from aiokafka import AIOKafkaProducer

CHINA = timezone(timedelta(hours=8))
BATCH_SIZE = 10


def finished_calls(account_id: str) -> list[dict[str, object]]:
    """Return a batch's calls in the order in which they ended."""
    submitted = datetime.now(CHINA).replace(microsecond=0)
    return [
        {
            "call_id": f"{account_id}-{submitted:%Y%m%d%H%M%S}-{index}",
            "account_id": account_id,
            "line_id": "line-7",
            "result": "F",
            "phone": f"1380000{index:04d}",
            "submitted_at": submitted.isoformat(),
            "batch_size": BATCH_SIZE,
            "batch_index": index,
            "ended_at": (submitted + timedelta(seconds=20 * (index + 1))).isoformat(),
            "balance": f"{100 - index / 10:.2f}",
            "duration_s": 0,
        }
        for index in range(BATCH_SIZE)
    ]


async def publish(brokers: str, topic: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers,
        acks="all",  # with min.insync.replicas: a call that was taken survives a broker
        enable_idempotence=True,  # a try that is repeated neither doubles nor reorders
        linger_ms=20,
        compression_type="gzip",
    )
    async with producer:
        for call in finished_calls("acme"):
            # The key is the account: all of its calls lie in one partition, in this order.
            key = str(call["account_id"]).encode()
            value = json.dumps(call, ensure_ascii=False).encode()
            sent = await producer.send_and_wait(topic, value, key=key)
            print(f"{topic}/{sent.partition}/{sent.offset} {call['call_id']}")


if __name__ == "__main__":
    asyncio.run(publish(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "call-records"))

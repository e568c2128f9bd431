"""What a restore reads of a changelog that was written for weeks, beside what lives in it."""

import asyncio
import os
import time

from aiokafka import AIOKafkaProducer

from streams.engine.state import State
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader
from tests.months.month import Month
from tests.months.registry import needs

KEYS, TIMES, VALUE_BYTES = 100_000, 20, 150
RECORDS_OF_A_CYCLE = 100
CLEAN_FOR_SECONDS = 20.0
"""The cleaner looks twice a second: what didn't change for so long is clean."""


@needs(partitions=1)
async def restore_reads_what_lives(month: Month) -> None:
    """Each key written twenty times, a transaction a cycle: about twice of what lives is read."""
    changelog = TP(month.installation.topics.changelog, 0)
    began = time.monotonic()
    await _write(month, changelog)
    took_s = time.monotonic() - began
    size = await _clean(month, changelog)
    reader, state = LogReader({"bootstrap_servers": month.installation.brokers}), State(0)
    await reader.open([changelog.topic])
    try:
        ends = await reader.ends([changelog])
        began = time.monotonic()
        read = await reader.restore({changelog: state}, ends, lambda part: None)
        restored_s = time.monotonic() - began
    finally:
        await reader.close()
    assert len(state) == KEYS
    lives = KEYS * (len(_key(0)) + VALUE_BYTES)
    month.note(
        f"written in {took_s:.0f} s, {read / KEYS:.2f} records a key, {size / 2**20:.1f} MiB "
        f"of {lives / 2**20:.1f} MiB that live, restored in {restored_s:.1f} s"
    )
    assert read <= 2 * KEYS
    assert size <= 2 * lives + (4 << 20), "twice, and the segment that is written"


def _key(number: int) -> bytes:
    return b"x%08d" % number


async def _write(month: Month, changelog: TP) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=month.installation.brokers,
        transactional_id="writer",
        linger_ms=0,
        max_batch_size=1 << 20,
        retry_backoff_ms=5,
    )
    await producer.start()
    try:
        for _ in range(TIMES):
            keys = list(range(KEYS))
            month.rng.shuffle(keys)
            for first in range(0, KEYS, RECORDS_OF_A_CYCLE):
                await producer.begin_transaction()
                batch = producer.create_batch()
                for number in keys[first : first + RECORDS_OF_A_CYCLE]:
                    value = os.urandom(VALUE_BYTES)
                    assert batch.append(key=_key(number), value=value, timestamp=None)
                batch.close()
                await (await producer.send_batch(batch, changelog.topic, partition=0))
                await producer.commit_transaction()
    finally:
        await producer.stop()


async def _clean(month: Month, changelog: TP) -> int:
    """Return the log's bytes once the cleaner is through."""
    directory = month.servers.kafka.directory / "data" / f"{changelog.topic}-{changelog.partition}"
    size, since = -1, time.monotonic()
    while time.monotonic() - since < CLEAN_FOR_SECONDS:
        found = sum(one.stat().st_size for one in directory.glob("*.log"))
        if found != size:
            size, since = found, time.monotonic()
        await asyncio.sleep(1.0)
    return size

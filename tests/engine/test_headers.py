"""Other producers' headers: values that are null, names that aren't text. Neither Kafka nor its
clients check them, so they must stop nothing."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBase
from aiokafka.record.util import calc_crc32c

from agents.dead_letters import ATTEMPTS, attempts_of
from streams.kafka.log_scan import batches_of, records_of
from tests.cli.test_commands import dialwatch
from tests.engine.test_refused import command
from tests.installation import Installation
from tests.operations.letters import letter
from tests.samples import recharge

NULL = [("h", None), ("traceparent", None), (ATTEMPTS, None)]
NAME, WRONG = b"NAME", b"N\xff\xfeE"
"""A header's name, and the bytes, no UTF-8, that it is overwritten with."""
SHOWN = r"N\xff\xfeE"


def with_wrong_name(batch: bytes) -> bytes:
    """Return a record batch in which NAME is WRONG, with its checksum."""
    changed = bytearray(batch.replace(NAME, WRONG))
    assert changed != batch
    checked = bytes(changed[DefaultRecordBase.ATTRIBUTES_OFFSET :])
    struct.pack_into(">I", changed, DefaultRecordBase.CRC_OFFSET, calc_crc32c(checked))
    return bytes(changed)


async def publish(
    installation: Installation, topic: str, key: bytes, value: bytes, headers: Any
) -> None:
    """Publish one record to partition 0, as clients in Java and C can."""
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers)
    await producer.start()
    batch: Any = BatchBuilder(1 << 20, 0, is_transactional=False)
    batch.append(key=key, value=value, timestamp=None, headers=headers)
    if any(name.encode() == NAME for name, _ in headers):
        build = batch._build
        batch._build = lambda: with_wrong_name(bytes(build()))
    await (await producer.send_batch(batch, f"{installation.name}.{topic}", partition=0))
    await producer.stop()


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4])
def test_a_name_that_is_no_text_costs_no_record(compression: int) -> None:
    batch: Any = BatchBuilder(1 << 20, 0, is_transactional=False)
    for number in range(3):
        batch.append(
            key=b"k%d" % number,
            value=None if number == 1 else b"NAME" * 1000,
            timestamp=1000 + number,
            headers=[("a", b"1"), (NAME.decode(), None)],
        )
    whole = with_wrong_name(bytes(batch._build()))
    if compression:
        whole = compressed(whole, compression)
    (only,) = batches_of(whole)
    found = records_of(whole, only)
    assert [(one.offset, one.timestamp, one.key) for one in found] == [
        (number, 1000 + number, b"k%d" % number) for number in range(3)
    ]
    assert [one.value for one in found] == [WRONG * 1000, None, WRONG * 1000]
    assert {tuple(one.headers) for one in found} == {(("a", b"1"), (SHOWN, None))}


def compressed(batch: bytes, codec: int) -> bytes:
    """Return a batch with its records compressed."""
    import cramjam  # noqa: PLC0415 (aiokafka's own)

    packers = {
        1: cramjam.gzip.compress,
        2: cramjam.snappy.compress_raw,
        3: cramjam.lz4.compress,
        4: cramjam.zstd.compress,
    }
    size = DefaultRecordBase.HEADER_STRUCT.size
    fields = list(DefaultRecordBase.HEADER_STRUCT.unpack(batch[:size]))
    records = bytes(packers[codec](batch[size:]))
    fields[1] = size - 12 + len(records)
    fields[5] |= codec
    return DefaultRecordBase.HEADER_STRUCT.pack(*fields) + records


def test_a_letter_whose_attempts_are_null_is_its_first() -> None:
    assert attempts_of([(ATTEMPTS, None)]) == 0
    buried = letter("calls", b"k", b"v", headers=NULL)
    assert buried.headers[: len(NULL)] == NULL


@pytest.mark.broker
async def test_headers_of_any_kind_stop_nothing(installation: Installation, tmp_path: Path) -> None:
    installation.worker()
    wrong = [(NAME.decode(), b"1")]
    valid = json.dumps(recharge("acme", "r1").value).encode()
    sent = json.dumps(command(1, account_id=None, openid="o1", scenario="direct").value).encode()
    for headers in (NULL, wrong):
        await publish(installation, "call-records", b"acme", b"rubbish", headers)
    await publish(installation, "recharges", b"acme", valid, wrong)
    await publish(installation, "notifications", b"o1", sent, NULL)
    await installation.wait_for(
        "deliveries",
        lambda found: {one["scenario"] for one in found} == {"direct", "recharge_received"},
    )
    async with asyncio.timeout(60):
        while len(letters := await installation.read("dead-letters")) < 2:  # noqa: ASYNC110 (Kafka tells nobody)
            await asyncio.sleep(0.2)
    first, second = letters
    assert list(first.headers[: len(NULL)]) == NULL
    assert second.headers[0] == (SHOWN, b"1")
    listed = dialwatch("dlq", "list", directory=tmp_path, variables=installation.variables)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("value: ") == 2

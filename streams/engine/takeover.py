"""What happens between an assignment and the first fold: settle, restore, find where to read.

1. A dead owner's pending commit is waited for, and ended if it takes long, so that 2. the group's
offsets are the last word on what was folded, and 3. the changelogs are read up to everything
that was written by then. Only then does anything fold. Repeating it changes nothing.
"""

import asyncio
import logging
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from streams.engine.hanging import HangingTransactions
from streams.engine.types import TP
from streams.kafka.log_reader import LogReader
from streams.kafka.producer import TransactionalProducer
from streams.kafka.protocol import CommittedOffset

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.02
_PATIENCE_S = 0.5
"""A live owner finishes its commit in this time; after it the owner counts as gone."""


class OffsetOutOfRangeError(Exception):
    """A committed offset that isn't in the log (any more): someone must decide what to do."""


@dataclass(frozen=True)
class Positions:
    """Where each source partition is read from, and where it ended just now."""

    start: dict[TP, int]
    end: dict[TP, int]
    is_new: set[TP]
    """Partitions of which the group has folded nothing yet."""
    owners: dict[int, set[str]]
    """By partition number, the transactional ids of who committed last, others than this one."""
    claims: dict[TP, int]
    """Offsets to commit again as they are, so that whoever comes next finds who was here, even
    if this worker's first transaction is its last."""


async def settle(
    producer: TransactionalProducer,
    reader: LogReader,
    hanging: HangingTransactions,
    group: str,
    tps: list[TP],
) -> Positions:
    """Return where to read each partition from, once nobody is about to change it.

    Raises OffsetOutOfRangeError where a committed offset isn't in the log, and
    HangingTransactionError where what a transaction left can't be ended.
    """
    found = await _stable_offsets(producer, hanging, group, tps)
    committed = {tp: found[tp].offset for tp in tps}
    beginnings, ends = await reader.beginnings(tps), await reader.ends(tps)
    start = {}
    for tp in tps:
        offset = committed[tp]
        if offset < 0:
            start[tp] = beginnings[tp]
        elif beginnings[tp] <= offset <= ends[tp]:
            start[tp] = offset
        else:
            raise OffsetOutOfRangeError(
                f"{tp.topic}-{tp.partition}: group {group} goes on at offset {offset}, but the log "
                f"holds {beginnings[tp]} to {ends[tp]}: records were deleted before they were "
                "read, or the topic was made anew. Decide what is to be lost and set the group's "
                "offsets with kafka-consumer-groups --reset-offsets"
            )
    owners = _owners(found)
    claims = {
        tp.partition: tp
        for tp in tps
        if committed[tp] >= 0 and producer.transactional_id not in owners[tp.partition]
    }
    return Positions(
        start,
        ends,
        is_new={tp for tp in tps if committed[tp] < 0},
        owners={number: ids - {producer.transactional_id} for number, ids in owners.items()},
        claims={tp: committed[tp] for tp in claims.values()},
    )


async def end_what_is_left_open(
    producer: TransactionalProducer,
    reader: LogReader,
    hanging: HangingTransactions,
    tps: list[TP],
    owners: dict[int, set[str]],
) -> None:
    """End the transactions that stay pending in partitions just taken over.

    An owner that died before it sent its offsets leaves nothing that `settle` would see, but
    nobody can read past what it wrote until its transaction times out: 10 s and more. Best
    effort, and may be cancelled: without it everything is right and slower, unless a transaction
    hangs. Raises HangingTransactionError where one does and can't be ended.
    """
    try:
        ends, before = await reader.ends(tps), await reader.stable_ends(tps)
        pending, ended = list(tps), set[str]()
        while pending:
            await asyncio.sleep(_PATIENCE_S)
            stable = await reader.stable_ends(pending)
            pending = [tp for tp in pending if stable[tp] < ends[tp]]
            # Where it moves, live workers write.
            stuck = {tp.partition for tp in pending if stable[tp] == before[tp]}
            if stuck:
                await hanging.mend()  # before who left it is fenced: that hides how it ended
            for owner in set().union(*(owners.get(number, set()) for number in stuck)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
            before = stable
    except (KafkaError, TimeoutError, OSError) as error:
        log.warning("could not end what another worker left open: %r", error)


async def _stable_offsets(
    producer: TransactionalProducer, hanging: HangingTransactions, group: str, tps: list[TP]
) -> dict[TP, CommittedOffset]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: dict[TP, CommittedOffset] = {}
    ended: set[str] = {producer.transactional_id}
    waiting = list(tps)
    while waiting:
        answer = await producer.committed_offsets(group, waiting, require_stable=True)
        found.update((tp, it) for tp, it in answer.items() if it.is_stable)
        waiting = [tp for tp in waiting if tp not in found]
        if not waiting:
            break
        await asyncio.sleep(_ASK_AGAIN_S)
        if loop.time() - began > _PATIENCE_S:
            began = loop.time()
            if await hanging.mend():  # before who left it is fenced: that hides how it ended
                continue
            # Transactions of the dead would be pending until they time out: 10 s and more.
            last = _owners(await producer.committed_offsets(group, tps, require_stable=False))
            numbers = {tp.partition for tp in waiting}
            for owner in set().union(*(last[number] for number in numbers)) - ended:
                log.info("ending what %s left open", owner)
                await producer.end_transaction_of(owner)
                ended.add(owner)
    return found


def _owners(offsets: dict[TP, CommittedOffset]) -> dict[int, set[str]]:
    """Return by partition number the transactional ids of who committed what is committed."""
    owners: dict[int, set[str]] = {tp.partition: set() for tp in offsets}
    for tp, committed in offsets.items():
        if committed.metadata:
            owners[tp.partition].add(committed.metadata)
    return owners

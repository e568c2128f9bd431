"""Transactions that hang: open in a partition, over for their coordinator.

A broker that starts may complete transactions before it knows which partitions it leads. Then
their markers are never written, and no reader of committed records gets past them. This module
finds the hanging ones, finds out how they ended (commit or abort), and writes those markers. The
requests are in `streams/kafka/transactions.py`.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Iterable
from enum import Enum
from typing import NamedTuple

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
)

from streams.engine.types import TP
from streams.kafka import transactions
from streams.kafka.log_reader import LogReader
from streams.kafka.transactions import Marker, OpenTransaction, Span, TransactionState

log = logging.getLogger(__name__)

_UNDER_WAY = {"Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"}
_LOOK_BACK_MS = 60_000
"""A transaction's records, in every partition, are later than its first one less this."""
_EVIDENCE_SECONDS = 20.0


class HangingTransactionError(Exception):
    """A transaction hangs, and this worker can't end it or may not."""


class Verdict(Enum):
    """What is known of a transaction that is open in a partition."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    """It hangs, and its coordinator doesn't know, or has forgotten, how it ended."""


class Hanging(NamedTuple):
    """A transaction that hangs in one partition."""

    transaction: OpenTransaction
    known: TransactionState | None
    owner: str | None
    """The transactional id; None: no coordinator knows it."""
    verdict: Verdict


def judge(one: OpenTransaction, known: TransactionState | None) -> Verdict:
    """Return the verdict on an open transaction. `known`: its coordinator's answer, asked after
    the transaction was seen open and before it was seen open again."""
    if known is None or known.producer_id != one.producer_id:
        return Verdict.UNKNOWN
    if known.state in _UNDER_WAY:
        # The coordinator may mean a later transaction of the same producer, in other partitions.
        return Verdict.OPEN if one.tp in known.partitions else Verdict.UNKNOWN
    later = known.producer_epoch - one.producer_epoch
    if known.state == "CompleteCommit" and later == 0:
        return Verdict.COMMITTED
    # A coordinator that aborts after a timeout, or for a new producer, raises the epoch by one.
    if known.state == "CompleteAbort" and later in (0, 1):
        return Verdict.ABORTED
    return Verdict.UNKNOWN


def judge_by_spans(epoch: int, first_timestamp: int, spans: Iterable[Span]) -> Verdict:
    """Return how the last transaction of a producer's epoch ended, judged by another partition.

    `spans`: what that partition holds of the producer. `first_timestamp` (ms): of the first record
    known to belong to the transaction; by the same clock all earlier ones ended before it.
    """
    of_epoch = [span for span in spans if span.producer_epoch == epoch]
    if not of_epoch:
        return Verdict.UNKNOWN
    last = of_epoch[-1]
    if last.marker_epoch > epoch and not last.is_commit:
        return Verdict.ABORTED  # the producer was fenced, and only its last one was open then
    if last.last_timestamp < first_timestamp:
        return Verdict.UNKNOWN
    return Verdict.COMMITTED if last.is_commit else Verdict.ABORTED


class HangingTransactions:
    """Finds the hanging transactions of one group's workers, and ends them."""

    def __init__(
        self,
        reader: LogReader,
        group: str,
        changelog: str,
        output_topics: Collection[str],
        principal: str = "this user",
    ) -> None:
        """`principal`: this program's user in Kafka's ACLs, for the log."""
        self._reader = reader
        self._principal = principal
        self._group = group
        self._changelog: str = changelog
        self._written = [changelog, *output_topics]
        self._told: dict[TP, int] = {}
        """The offsets of others' hanging transactions that were logged already."""

    def written(self) -> list[TP]:
        """Return all known partitions that workers write to."""
        return transactions.partitions_of(self._reader.client, self._written)

    async def find(self, tps: Collection[TP]) -> list[Hanging]:
        """Return the transactions of all producers that hang in partitions. Raises KafkaError."""
        found, _ = await self._find(tps)
        return found

    async def look_at(self, tps: Collection[TP]) -> None:
        """Check partitions whose last stable offset doesn't move: end this group's hanging
        transactions, log those of others once.

        Raises HangingTransactionError where one of this group can't be ended; KafkaError.
        """
        if not tps:
            return
        found = await self.find(tps)
        for one in found:
            tp, _, _, _, start, _ = one.transaction
            if not self.is_ours(one) and self._told.get(tp) != start:
                self._told[tp] = start
                log.warning("%s", tell(one))
        if any(self.is_ours(one) for one in found):
            await self.mend()

    def is_ours(self, hanging: Hanging) -> bool:
        """Did a worker of this group write it?"""
        if hanging.owner is None:
            # Nobody else writes to the changelog.
            return bool(hanging.transaction.tp.topic == self._changelog)
        return bool(re.fullmatch(f"{re.escape(self._group)}-[0-9a-f]+", hanging.owner))

    def advice(self, hanging: Hanging) -> str:
        """Return a line that says what hangs, and who must do what to end it."""
        if self.is_ours(hanging) and hanging.verdict is not Verdict.UNKNOWN:
            return (
                f"{_described([hanging])}; Kafka had {hanging.verdict.value} it: a worker that "
                "starts, or takes over, ends it so"
            )
        return tell(hanging)

    async def mend(self, owner: str | None = None) -> bool:
        """End this group's hanging transactions, or those of the id `owner` only. Return whether
        there were any.

        Call it before InitProducerId of an id, which erases how its last transaction ended.

        Raises HangingTransactionError where that can't be found out, or the right is missing;
        KafkaError.
        """
        client = self._reader.client
        tps = self.written()
        offsets = transactions.offsets_partition(client, self._group)
        if offsets is not None:
            tps.append(offsets)
        try:
            found, hidden = await self._find(tps)
        except IncompatibleBrokerVersion:
            return False  # Kafka before 2.8 or 3.0, which has no such requests
        ours = {one.transaction.producer_id for one in found if self.is_ours(one)}
        by_producer: dict[tuple[int, int], list[Hanging]] = {}
        for one in found:
            producer = one.transaction.producer_id, one.transaction.producer_epoch
            if producer[0] in ours and owner in (None, one.owner):
                by_producer.setdefault(producer, []).append(one)
        for hanging in by_producer.values():
            verdict = await self._verdict(hanging, tps)
            await self._end(hanging, verdict, offsets if hidden else None)
        return bool(by_producer)

    async def _find(self, tps: Collection[TP]) -> tuple[list[Hanging], set[str]]:
        client = self._reader.client
        opened, hidden = await transactions.open_transactions(client, tps)
        if not opened:
            return [], hidden
        owners = await transactions.owners_of(client, {one.producer_id for one in opened})
        known = {
            name: await transactions.describe_transaction(client, name)
            for name in set(owners.values())
        }
        # One that was open before its coordinator called it ended, and still is, hangs.
        again, _ = await transactions.open_transactions(client, {one.tp for one in opened})
        still = {_identity(one) for one in again}
        found = []
        for one in opened:
            owner = owners.get(one.producer_id)
            state = known.get(owner) if owner is not None else None
            verdict = judge(one, state)
            if _identity(one) in still and verdict is not Verdict.OPEN:
                found.append(Hanging(one, state, owner, verdict))
        return found, hidden

    async def _verdict(self, hanging: list[Hanging], tps: Collection[TP]) -> Verdict:
        """Return how the last transaction of one producer ended; `hanging`: where it hangs."""
        said = {one.verdict for one in hanging}
        if Verdict.UNKNOWN in said:
            said = await self._evidence([one.transaction for one in hanging], tps)
        if len(said) != 1:
            raise HangingTransactionError(
                f"{_described(hanging)}, and nothing tells whether Kafka had committed or aborted "
                "it: decide which, and keep the topics' records for that. To abort it: "
                f"{_abort_commands(hanging)}"
            )
        return said.pop()

    async def _evidence(self, opened: list[OpenTransaction], tps: Collection[TP]) -> set[Verdict]:
        """Return how the transaction ended, according to the markers in other partitions."""
        client = self._reader.client
        producer_id, epoch = opened[0].producer_id, opened[0].producer_epoch
        hangs_in = {one.tp for one in opened}
        others = [tp for tp in tps if tp not in hangs_in]
        said = set()
        try:
            async with asyncio.timeout(_EVIDENCE_SECONDS):
                first = min([await self._first_timestamp(one) for one in opened])
                ends = await self._reader.ends(others)
                starts = await self._reader.offsets_at(others, first - _LOOK_BACK_MS)
                for tp, start in starts.items():
                    spans = await transactions.spans_of(client, tp, producer_id, start, ends[tp])
                    said.add(judge_by_spans(epoch, first, spans))
        except TimeoutError:
            log.warning("looking for how a transaction ended took too long")
            return set()
        return said - {Verdict.UNKNOWN}

    async def _first_timestamp(self, one: OpenTransaction) -> int:
        start, end = one.start_offset, one.start_offset + 1
        async for batch in transactions.batches_of(self._reader.client, one.tp, start, end):
            if batch.producer_id == one.producer_id:
                return int(batch.first_timestamp)
        return one.last_timestamp

    async def _end(self, hanging: list[Hanging], verdict: Verdict, offsets: TP | None) -> None:
        is_commit, known = verdict is Verdict.COMMITTED, hanging[0].known
        markers = [
            Marker(one.tp, one.producer_id, one.producer_epoch, one.coordinator_epoch, is_commit)
            for one, *_ in hanging
        ]
        if offsets is not None:  # None: this user may not read it
            last = max(marker.coordinator_epoch for marker in markers)
            markers.append(markers[0]._replace(tp=offsets, coordinator_epoch=last))
        log.warning("%s: Kafka had %s it, and it is ended so", _described(hanging), verdict.value)
        try:
            await transactions.write_markers(self._reader.client, markers)
        except ClusterAuthorizationFailedError:
            if known is None or hanging[0].verdict is Verdict.UNKNOWN:
                raise self._forbidden(hanging, verdict) from None
            try:
                await transactions.end_at_coordinator(
                    self._reader.client,
                    known,
                    [one.transaction.tp for one in hanging],
                    self._group,
                    is_commit=is_commit,
                )
            except KafkaError as error:
                log.debug("its coordinator doesn't end it either: %r", error)
                raise self._forbidden(hanging, verdict) from None

    def _forbidden(self, hanging: list[Hanging], verdict: Verdict) -> HangingTransactionError:
        told = (
            f"{_described(hanging)}, Kafka had {verdict.value} it, and ending it needs the right "
            f"Alter on the cluster: grant it to {self._principal} (kafka-acls.sh --add --operation "
            f"Alter --cluster --allow-principal '{self._principal}') until a worker has started"
        )
        if verdict is Verdict.ABORTED:
            return HangingTransactionError(f"{told}, or: {_abort_commands(hanging)}")
        return HangingTransactionError(
            f"{told}; kafka-transactions.sh can only abort, which would lose it"
        )


def tell(hanging: Hanging) -> str:
    """Return a line about another system's transaction, which this worker can't end."""
    told = _described([hanging])
    if hanging.verdict is Verdict.ABORTED:
        return f"{told}; its coordinator aborted it. To end it: {_abort_commands([hanging])}"
    if hanging.verdict is Verdict.COMMITTED:
        return (
            f"{told}; its coordinator committed it, and kafka-transactions.sh could only abort it: "
            "its owner must decide, and what stands behind it waits"
        )
    return f"{told}; how it ended isn't known any more: its owner must decide, and what stands " \
        "behind it waits"  # fmt: skip


def _described(hanging: list[Hanging]) -> str:
    owner = hanging[0].owner or f"producer {hanging[0].transaction.producer_id}"
    places = ", ".join(
        f"{one.tp.topic}-{one.tp.partition} from offset {one.start_offset}" for one, *_ in hanging
    )
    return f"a transaction of {owner} hangs in {places}"


def _abort_commands(hanging: list[Hanging]) -> str:
    return "; ".join(
        f"kafka-transactions.sh --bootstrap-server … abort --topic {one.tp.topic} --partition "
        f"{one.tp.partition} --start-offset {one.start_offset}"
        for one, *_ in hanging
    )


def _identity(one: OpenTransaction) -> tuple[TP, int, int, int]:
    return one.tp, one.producer_id, one.producer_epoch, one.start_offset

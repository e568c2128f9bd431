"""Transactions that hang: open in a partition, over for their coordinator.

A broker that starts may complete transactions before it knows of partitions that it leads: their
markers are never written, and no reader gets past what was written with them. Here it is found
out which ones hang, how they ended, and they are ended so. What the requests look like is in
`streams/kafka/transactions.py`.
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
"""A transaction's records are younger than its first one less this, in every partition."""
_EVIDENCE_SECONDS = 20.0


class HangingTransactionError(Exception):
    """A transaction hangs, and this worker can't or mustn't end it."""


class Verdict(Enum):
    """How a transaction that is open in a partition stands."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    """It hangs, and its coordinator doesn't know (any more) how it ended."""


class Hanging(NamedTuple):
    """One that hangs in one partition."""

    transaction: OpenTransaction
    known: TransactionState | None
    owner: str | None
    """Its transactional id; None: no coordinator knows."""
    verdict: Verdict


def judge(one: OpenTransaction, known: TransactionState | None) -> Verdict:
    """Say how an open transaction stands. `known`: what its coordinator said after it was seen to
    be open and before it was seen to be open still."""
    if known is None or known.producer_id != one.producer_id:
        return Verdict.UNKNOWN
    if known.state in _UNDER_WAY:
        # A later transaction of the same producer may be under way elsewhere.
        return Verdict.OPEN if one.tp in known.partitions else Verdict.UNKNOWN
    later = known.producer_epoch - one.producer_epoch
    if known.state == "CompleteCommit" and later == 0:
        return Verdict.COMMITTED
    # Who aborts what timed out, or what a predecessor left open, raises the epoch by one first.
    if known.state == "CompleteAbort" and later in (0, 1):
        return Verdict.ABORTED
    return Verdict.UNKNOWN


def judge_by_spans(epoch: int, first_timestamp: int, spans: Iterable[Span]) -> Verdict:
    """Say how the last transaction of a producer's epoch ended, by what another partition holds.

    `first_timestamp`: of the first record that is known to be part of it. An earlier transaction
    wrote nothing after that, by the same clock.
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
    """Finds those of one group's workers in what they write, and ends them."""

    def __init__(
        self,
        reader: LogReader,
        group: str,
        changelog: str,
        output_topics: Collection[str],
        principal: str = "this user",
    ) -> None:
        """`principal`: who this program is for Kafka, as lines for people name him."""
        self._reader = reader
        self._principal = principal
        self._group = group
        self._changelog: str = changelog
        self._written = [changelog, *output_topics]
        self._told: dict[TP, int] = {}
        """Offsets at which others' hang that were told of."""

    def written(self) -> list[TP]:
        """Return all partitions that workers write, as far as they are known."""
        return transactions.partitions_of(self._reader.client, self._written)

    async def find(self, tps: Collection[TP]) -> list[Hanging]:
        """Return what hangs in partitions, whosever it is. Raises KafkaError."""
        found, _ = await self._find(tps)
        return found

    async def look_at(self, tps: Collection[TP]) -> None:
        """Look at partitions whose last stable offset doesn't move: end this group's hanging
        transactions, tell once of others'.

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
            # Nobody else writes it.
            return bool(hanging.transaction.tp.topic == self._changelog)
        return bool(re.fullmatch(f"{re.escape(self._group)}-[0-9a-f]+", hanging.owner))

    def advice(self, hanging: Hanging) -> str:
        """Return a line about one that hangs, and who ends it."""
        if self.is_ours(hanging) and hanging.verdict is not Verdict.UNKNOWN:
            return (
                f"{_described([hanging])}; Kafka had {hanging.verdict.value} it: a worker that "
                "starts, or takes over, ends it so"
            )
        return tell(hanging)

    async def mend(self, owner: str | None = None) -> bool:
        """End what hangs of this group's, or of one transactional id's alone. Was there any?

        To be called before InitProducerId of an id: that erases how its last transaction ended.

        Raises HangingTransactionError where it is undecidable, or the right is missing; KafkaError.
        """
        client = self._reader.client
        tps = self.written()
        offsets = transactions.offsets_partition(client, self._group)
        if offsets is not None:
            tps.append(offsets)
        try:
            found, hidden = await self._find(tps)
        except IncompatibleBrokerVersion:
            return False  # before Kafka 2.8 and 3.0 nobody can ask
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
        # What was open before and is open after its coordinator called it ended will stay so.
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
        """Say how the last transaction of one producer and epoch ended, which hangs in places."""
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
        """Return how markers in other partitions say that it ended."""
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
        if offsets is not None:  # this user may not look into it
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
    """Return a line about one that this worker can't end: another system's."""
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

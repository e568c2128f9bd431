"""One command from its record to its deliveries: how often it is tried, and when it is given up.

A message waits for as long as its channel does (`agents/holds.py`), and no longer: what it alone
meets again and again while others get through ends it, and so does its recipient's limit
(`agents/limits.py`).

The ledger is written before each attempt, so that whoever goes on after a crash knows that the
provider may have the message; and after all that may take long, so that it says so of nothing that
was only waiting. The first of these words is also the question whether there are
older ones; only who would have to wait asks that before (`_look`). So a message that gets through
costs two round trips to Redis: one before it is sent, and one after it.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Protocol

from agents.admission import Admission
from agents.channel import (
    Bar,
    Entry,
    LaterWord,
    Ledger,
    Message,
    SendingChannel,
    StoreAwayError,
)
from agents.clock import Clock
from agents.holds import UNLIKELY, is_miss
from agents.metrics import LEDGER_SECONDS
from agents.outcomes import Held, Outcome, Refused, Sent, Skipped, TryLater, Unclear
from agents.patience import Patience
from streams.engine import fault_points
from streams.records import Account, Delivery, Notification
from streams.times import SECOND, format_moment

UNCERTAIN = "uncertain"
FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 30.0
# The longest pause of an entry that doesn't say how long its pause was.
_LONGEST_PAUSE_SECONDS = 4500.0
# An attempt that another worker made so long after now was made by another clock: when, is unknown.
CLOCKS_APART_SECONDS = 5.0
# A word that took so long came too late: the message's place is over, and others have theirs.
_LATE_SECONDS = 0.1
# How often one message alone may put the channel on hold, or be told what anybody may be told.
MOST_TRIES_ALONE = 5
# The same where nothing says how often: about eight minutes.
MOST_TRIES = 20

_End = Sent | Skipped | Refused


class RevokedError(Exception):
    """The command's partition was taken away: another worker goes on from the ledger."""


class Lookup(Protocol):
    """Finds an account as it is now; None: it has no record."""

    def __call__(self, account_id: str, /) -> Account | None: ...


@dataclass
class Job:
    """One command being worked off."""

    command: Notification
    key: bytes | None
    coordinates: str
    taken_at: float = 0.0
    """When it came, by the event loop's clock."""
    on_recipient: Callable[[str], None] = lambda _: None
    """Told whom it goes to, as soon as that is known."""
    is_again: bool = False
    """It was given up before, and an operator sends it again."""
    entry: Entry = field(init=False)
    doubted_at: float | None = None
    """When the entry's doubt began, by the event loop's clock: nobody sets that one."""
    is_known: bool = False
    """The ledger was asked what stands there; until then `entry` is a guess that nothing does."""
    has_begun: bool = False
    """An attempt was written down in this life."""
    is_sending: bool = False
    """The provider may have it any moment: worth waiting for."""
    was_late: bool = False
    """The last attempt was taken back, because its word came too late."""
    was_stale: bool = False
    """The last attempt was made with what was no longer good."""
    is_revoked: bool = False
    has_missed: bool = False
    """What it met last may be everybody's: a hold says when it is tried again, if there is one."""
    held: int = 0
    """How often the answer in this life was everybody's, which is no attempt of the message's."""
    misses: int = 0
    """How often in a row it was told what nobody else was, ..."""
    missed_since: float | None = None
    """... and since when, by the event loop's clock."""

    def __post_init__(self) -> None:
        self.entry = Entry(self.coordinates, life=secrets.token_hex(6))


class Settler:
    """Brings commands of one channel to their end."""

    def __init__(
        self,
        channel: SendingChannel,
        *,
        ledger: Ledger,
        lookup: Lookup,
        admission: Admission,
        patience: Patience,
        zone: tzinfo,
        now: Clock,
        random: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._lookup = lookup
        self._admission = admission
        self._holds, self._limits = channel.holds, channel.limits
        self._ask = patience.ask
        self._zone = zone
        self._now = now
        self._random = random

    async def settle(self, job: Job) -> list[Delivery] | None:
        """Return what became of the command; None where another record brought it before.

        1. Try until it ends, or until the ledger says that it has ended or is another record's.
        2. Write the end into the ledger with whose message it was, and the provider's word on it
           if that came first.

        Raises RevokedError.
        """
        end = await self._try_until_end(job)
        return _told(job, end) if isinstance(end, Entry) else await self._write_end(job, end)

    async def _look(self, job: Job) -> Entry | None:
        """Ask the ledger whether this is new, cut off, finished or a repeat. Return an entry that
        leaves nothing to do."""
        notification_id = job.command.notification_id
        known = await self._ask(lambda: self._ledger.read(notification_id))
        job.is_known = True
        return None if known is None else self._learn(job, known)

    def _learn(self, job: Job, known: Entry) -> Entry | None:
        """Go on from the entry that stands; return one that leaves nothing to do."""
        if known.coordinates != job.coordinates:
            if not (job.is_again and known.has_failed):
                return known
            job.entry.replaces = known.coordinates
        elif known.deliveries is not None:
            return known
        else:
            job.entry, job.doubted_at = known, None
        return None

    def describe(self, job: Job, end: _End) -> Delivery:
        """Return the record of how a command ended."""
        command = job.command
        delivery = Delivery(
            notification_id=command.notification_id,
            channel=command.channel,
            account_id=command.account_id,
            scenario=command.scenario,
            status="sent",
            attempts=job.entry.attempts,
            at=format_moment(self._now(), self._zone),
        )
        if isinstance(end, Sent):
            delivery.provider_id = end.provider_id
        elif isinstance(end, Skipped):
            delivery.status, delivery.error = "skipped", end.reason
        else:
            delivery.status, delivery.error = "failed", end.error
            delivery.error_code = end.error_code
        return delivery

    async def give_up(self, job: Job, error: str) -> list[Delivery] | None:
        """End a command that a bug keeps from being settled; return what `settle` would. Raises
        RevokedError."""
        if not job.is_known and (standing := await self._look(job)):
            return _told(job, standing)
        return await self._write_end(job, _given_up(job.entry, error, None))

    async def _write_end(self, job: Job, end: _End) -> list[Delivery]:
        command, entry = job.command, job.entry
        entry.deliveries = deliveries = [self.describe(job, end)]
        provider_id = end.provider_id if isinstance(end, Sent) else None
        claim = None
        if provider_id is not None:
            claim = self._channel.claim(command, job.key, entry.attempts, provider_id)
        word = await self._ask(lambda: self._ledger.finish(command.notification_id, entry, claim))
        if word is not None and provider_id is not None:
            deliveries.append(self._describe_word(job, provider_id, word))
            await self._ask(lambda: self._ledger.finish(command.notification_id, entry))
        return deliveries

    def _describe_word(self, job: Job, provider_id: str, word: LaterWord) -> Delivery:
        delivery = self.describe(job, Sent(provider_id))
        delivery.status, delivery.error = word.status, word.error
        return delivery

    async def _try_until_end(self, job: Job) -> _End | Entry:
        """Return how the command ended, or the ledger's entry of who was faster."""
        command, message = job.command, None
        while True:
            if job.is_again and not job.is_known and (standing := await self._look(job)):
                return standing
            entry = job.entry
            if message is None or entry.doubt_since is None:
                # Looked up anew, but not in doubt: the provider must see the same message again.
                message = self._prepare(command)
            if not isinstance(message, Message):
                if not job.is_known:
                    if standing := await self._look(job):
                        return standing
                    entry = job.entry
                return Refused(UNCERTAIN) if entry.doubt_since is not None else message
            job.on_recipient(message.recipient)
            if job.is_revoked:
                raise RevokedError
            job.is_sending = False
            if self._is_doubt_over(job):
                return Refused(UNCERTAIN)
            left_s = self._doubt_left_s(job)
            try:
                # Around the attempt too: the store or the pace may make it wait until it is late.
                async with asyncio.timeout(left_s) as limit:
                    outcome = await self._take_turn(job, message)
            except TimeoutError:
                if not limit.expired():
                    raise
                return Refused(UNCERTAIN)
            if isinstance(outcome, Entry | Sent | Skipped | Refused):
                return outcome

    async def _take_turn(self, job: Job, message: Message) -> Outcome | Entry | None:
        """Wait until it is time, for the recipient and for admission, and make one attempt.

        None: there was none, because only now it is known what stands in the ledger.
        """
        entry, recipient = job.entry, message.recipient
        if not job.is_known and self._limits.is_limited(recipient):
            return await self._look(job)
        if entry.not_before is not None and not (job.has_missed and self._holds.is_held):
            # No more than the whole pause: whoever wrote this may have had another clock.
            longest_s = _LONGEST_PAUSE_SECONDS if entry.pause_s is None else entry.pause_s
            left_s = (entry.not_before - self._now()) / SECOND
            await asyncio.sleep(min(max(0.0, left_s), longest_s))
        refused = await self._limits.enter(recipient, job.taken_at)
        if refused is not None:
            return Refused(UNCERTAIN) if entry.doubt_since is not None else refused
        faster, outcome = None, None
        try:
            pause_s = self._channel.pause_s(message)
            if pause_s:
                await asyncio.sleep(pause_s)
            faster, outcome = await self._take_place(job, message)
        finally:
            self._limits.leave(recipient, outcome)
        return outcome if faster is None else faster

    async def _take_place(self, job: Job, message: Message) -> tuple[Entry | None, Outcome | None]:
        """Wait for admission and until the channel is ready, and make one attempt; see `_attempt`.

        All that may take long comes before the attempt, because with it the doubt begins.
        """
        in_doubt = job.entry.doubt_since is not None
        turn = await self._admission.enter(
            message.scope, in_doubt=in_doubt, is_impatient=not job.is_known
        )
        if turn is None:
            return await self._look(job), None
        faster: Entry | None = None
        outcome: Outcome | None = None
        try:
            outcome = await self._channel.ready(message)
            # A hold that began meanwhile is for this one too.
            if outcome is None and not self._holds.stops(turn.probes, message.scope):
                faster, outcome = await self._attempt(job, message)
        finally:
            self._admission.leave(turn, _customer_of(job, message), outcome)
        return faster, outcome

    def _prepare(self, command: Notification) -> Message | Skipped | Refused:
        account_id = command.account_id
        account = self._lookup(account_id) if account_id is not None else None
        return self._channel.prepare(command, account)

    def _doubt_left_s(self, job: Job) -> float | None:
        """Return how long a repeat is still safe; None: for good.

        The wall's clock alone knows about a doubt from before this process, and about a time in
        which the machine slept; it may be set back. So of the two clocks the later one counts.
        """
        limit_s, since = self._channel.doubt_limit_s, job.entry.doubt_since
        if limit_s is None or since is None:
            return None
        age_s = (self._now() - since) / SECOND
        now = asyncio.get_running_loop().time()
        if job.doubted_at is None:
            if age_s < -CLOCKS_APART_SECONDS:
                return 0.0
            job.doubted_at = now - max(age_s, 0.0)
        return limit_s - max(age_s, now - job.doubted_at)

    def _is_doubt_over(self, job: Job) -> bool:
        """Is a repeat no longer safe?"""
        left_s = self._doubt_left_s(job)
        return left_s is not None and left_s <= 0

    async def _attempt(self, job: Job, message: Message) -> tuple[Entry | None, Outcome | None]:
        """Try once, and write down before and after it what a successor has to know.

        Return an entry that leaves nothing to do, and what came of the attempt; neither: there
        was none, because only now it is known what stands in the ledger, or it must go out anew.
        """
        notification_id, entry, is_first = job.command.notification_id, job.entry, not job.is_known
        attempts, doubt_since = entry.attempts, entry.doubt_since
        clock = asyncio.get_running_loop().time
        is_late, ready_at = False, clock()

        def undo() -> None:
            entry.attempts, entry.doubt_since = attempts, doubt_since

        async def begin() -> Entry | Bar | None:
            entry.attempts = attempts + 1
            entry.not_before = entry.pause_s = None
            if doubt_since is None:
                entry.doubt_since = self._now()
                job.doubted_at = clock()
            job.is_sending = True
            try:
                return await self._ledger.write(notification_id, entry, is_first=is_first, bar=bar)
            except StoreAwayError:
                job.is_sending = False
                raise

        async def take_back() -> Entry | Bar | None:
            # The store was away or slow: it is no longer this one's turn. And whether it heard of
            # the attempt may be unknown.
            nonlocal is_late
            is_late = True
            undo()
            return await self._ledger.write(notification_id, entry, is_first=is_first)

        if self._is_doubt_over(job):  # the machine may have slept while this one waited
            return None, Refused(UNCERTAIN)
        # What this life has put in doubt must be sent again as it was.
        bar = None if job.has_begun and doubt_since is not None else message.bar
        with LEDGER_SECONDS.time():
            standing = await self._ask(begin, late=take_back)
        was_slow = clock() - ready_at > _LATE_SECONDS
        # (Twice in a row would be for ever, where the store is always slow.)
        if standing is None and was_slow and not (is_late or job.was_late):
            standing = await self._ask(take_back)
        job.was_late = is_late
        job.is_known = True
        if isinstance(standing, Bar):
            undo()
            return None, Refused(UNCERTAIN) if doubt_since is not None else Skipped(standing.reason)
        if standing is not None:
            undo()
            return self._learn(job, standing) if is_first else standing, None
        if is_late:
            return None, None
        if doubt_since is not None and self._is_doubt_over(job):
            return None, Refused(UNCERTAIN)
        job.has_begun = True
        outcome: Outcome | None
        outcome = await self._channel.send(message, is_repeat=doubt_since is not None)
        # The worst moment: the provider has it, and nobody else knows.
        fault_points.passing(fault_points.DURING_SEND)
        job.has_missed = is_miss(outcome)
        was_stale, job.was_stale = job.was_stale, isinstance(outcome, Held) and outcome.is_stale
        match outcome:
            case Held() if job.was_stale and not was_stale:
                undo()
                outcome = None  # it goes again at once
            case Held():
                undo()
                job.held += 1
                if self._is_alone(job, message, MOST_TRIES_ALONE, outcome.scope):
                    # It wasn't everybody's trouble: so each of these was an attempt of its own.
                    entry.attempts += job.held
                    return None, _given_up(entry, outcome.reason, outcome.error_code)
            case TryLater(error, after_s, error_code):
                entry.doubt_since = doubt_since
                if self._is_over(job, message, outcome):
                    return None, _given_up(entry, error, error_code)
                self._put_off(entry, after_s)
            case Unclear():
                is_for_good = self._channel.doubt_limit_s is None
                if is_for_good and self._is_alone(job, message, MOST_TRIES):
                    return None, Refused(UNCERTAIN)
                self._put_off(entry, None)
            case _:
                return None, outcome
        faster = await self._ask(lambda: self._ledger.write(notification_id, entry))
        assert not isinstance(faster, Bar)  # noqa: S101 - none was named
        if isinstance(outcome, TryLater) and outcome.is_recipients:
            # In this process the limit itself says when; it may end early.
            entry.not_before = None
        return faster, outcome

    def _is_over(self, job: Job, message: Message, outcome: TryLater) -> bool:
        """Whether it was tried often enough."""
        entry = job.entry
        if outcome.is_recipients:
            entry.strikes += 1
            for_s = self._pause_s(entry.attempts, outcome.after_s)
            return self._limits.strike(message.recipient, outcome, for_s, entry.strikes)
        if outcome.is_general or outcome.most_tries is None:
            return self._is_alone(job, message, outcome.most_tries or MOST_TRIES)
        entry.strikes += 1
        return entry.strikes >= outcome.most_tries

    def _is_alone(
        self, job: Job, message: Message, most_tries: int, scope: str | None = None
    ) -> bool:
        """Count a try that failed. Whether so many are this message's trouble, not everybody's.

        They are when so many in a row can't be chance, at the rate at which others fail. What
        nobody gets through counts as the first again.
        """
        now = asyncio.get_running_loop().time()
        others: list[bool] = []
        if job.missed_since is not None:
            others = self._holds.others_since(job.missed_since, _customer_of(job, message), scope)
        if True not in others:
            job.missed_since, job.misses = now, 1
            return False
        job.misses += 1
        share = others.count(False) / len(others)
        return job.misses >= most_tries and share**job.misses < UNLIKELY

    def _put_off(self, entry: Entry, after_s: float | None) -> None:
        entry.pause_s = self._pause_s(entry.attempts, after_s)
        entry.not_before = self._now() + int(entry.pause_s * SECOND)

    def _pause_s(self, attempts: int, after_s: float | None) -> float:
        if after_s is None:
            after_s = min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 16))
        return after_s * (1 + self._random() / 4)


def _customer_of(job: Job, message: Message) -> str:
    return job.command.account_id or message.recipient


def _told(job: Job, standing: Entry) -> list[Delivery] | None:
    """Return the deliveries of an entry that leaves nothing to do; None: another record brought it.
    Of the same record its commit was lost, not its outcome."""
    return standing.deliveries if standing.coordinates == job.coordinates else None


def _given_up(entry: Entry, error: str, error_code: int | None) -> Refused:
    """Return the end of what was tried often enough; an older doubt is not over with it."""
    return Refused(UNCERTAIN) if entry.doubt_since is not None else Refused(error, error_code)

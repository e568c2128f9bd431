"""Fakes of everything around the sender, in memory and in virtual time."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import msgspec

from agents.channel import (
    Bar,
    Claim,
    Entry,
    LaterWord,
    Message,
    SendingChannel,
    StoreAwayError,
)
from agents.holds import Holds
from agents.limits import Limits
from agents.outcomes import Held, Outcome, Refused, Sent, Skipped
from agents.send import SendAgent
from streams.engine.outbox import OutboxRecord
from streams.engine.types import Header, Output
from streams.records import Account, Channel, Delivery, Notification, encode
from streams.times import SECOND

SHANGHAI = ZoneInfo("Asia/Shanghai")
START = 1_548_834_730 * SECOND  # 2019-01-30T15:52:10+08:00


def now() -> int:
    """Return the virtual loop's clock as an instant."""
    return START + round(asyncio.get_running_loop().time() * SECOND)


def notification(notification_id: str, account_id: str, **fields: object) -> Notification:
    """Return a WeChat command."""
    values: dict[str, object] = {
        "notification_id": notification_id,
        "scenario": "batch_completed",
        "account_id": account_id,
        "channel": "wechat",
        "occurred_at": "2019-01-30T15:52:10+08:00",
        "title": "任务完成",
        "content": "您的外呼任务已完成哦！请登录系统查看外呼结果",
        "page": None,
        "cause": {},
    }
    return msgspec.convert(values | fields, Notification)


class MemoryLedger:
    """The ledger's rules on a dict of bytes; a test may let the store be away."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.bars: set[str] = set()
        self.claims: dict[str, bytes] = {}
        self.words: dict[str, LaterWord] = {}
        """Providers' later words about messages that were not claimed yet."""
        self.is_away = False
        self.questions = 0

    def _look(self, notification_id: str) -> Entry | None:
        self.questions += 1
        if self.is_away:
            raise StoreAwayError("Redis: ConnectionError")
        value = self.entries.get(notification_id)
        return msgspec.json.decode(value, type=Entry) if value else None

    async def read(self, notification_id: str) -> Entry | None:
        await asyncio.sleep(0)
        return self._look(notification_id)

    async def write(
        self, notification_id: str, entry: Entry, *, is_first: bool = False, bar: Bar | None = None
    ) -> Entry | Bar | None:
        await asyncio.sleep(0)
        standing = self._look(notification_id)
        if standing is not None and standing.coordinates != entry.replaces:
            is_own = standing.coordinates == entry.coordinates and standing.deliveries is None
            if not is_own or (is_first and standing.life != entry.life):
                return standing
        if bar is not None and bar.key in self.bars:
            return bar
        self.entries[notification_id] = msgspec.json.encode(entry)
        return None

    async def finish(
        self, notification_id: str, entry: Entry, claim: Claim | None = None
    ) -> LaterWord | None:
        await asyncio.sleep(0)
        self._look(notification_id)
        if claim is not None:
            self.claims[claim.key] = claim.value
            if claim.word_key in self.words:
                return self.words[claim.word_key]
        self.entries[notification_id] = msgspec.json.encode(entry)
        return None


Answering = Callable[[Message, bool], Awaitable[Outcome]]


async def attempt(channel: SendingChannel, message: Message, *, is_repeat: bool = False) -> Outcome:
    """Make an attempt as the sender does: once ready, and once more with what was renewed."""
    for _ in range(2):
        held = await channel.ready(message)
        if held is not None:
            return held
        outcome = await channel.send(message, is_repeat=is_repeat)
        if not (isinstance(outcome, Held) and outcome.is_stale):
            break
    return outcome


@dataclass
class FakeChannel:
    """A channel whose answers a test chooses; by default each message is sent after 50 ms."""

    answer: Answering | None = None
    get_ready: Callable[[Message], Awaitable[Held | None]] | None = None
    name: Channel = "wechat"
    doubt_limit_s: float | None = 600.0
    pauses: dict[str, float] = field(default_factory=dict)
    attempts: list[tuple[float, str, bool]] = field(default_factory=list)
    """(moment, message id, is_repeat) of every call."""
    holds: Holds = field(default_factory=lambda: Holds("wechat", now=now, random=lambda: 0.0))
    limits: Limits = field(default_factory=Limits)
    under_way: int = 0
    most_under_way: int = 0

    def prepare(
        self, command: Notification, account: Account | None
    ) -> Message | Skipped | Refused:
        openid = command.openid or (account.openid if account else None)
        if openid is None:
            return Skipped("no openid")
        scope = command.template_id or "T"
        body = command.content.encode()
        return Message(command.notification_id, openid, scope, body, Bar(f"bar-{openid}", "no"))

    def pause_s(self, message: Message) -> float:
        return self.pauses.get(message.recipient, 0.0)

    async def ready(self, message: Message) -> Held | None:
        return None if self.get_ready is None else await self.get_ready(message)

    async def send(self, message: Message, *, is_repeat: bool) -> Outcome:
        clock = asyncio.get_running_loop().time()
        self.attempts.append((clock, message.message_id, is_repeat))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.answer is not None:
                return await self.answer(message, is_repeat)
            await asyncio.sleep(0.05)
            return Sent(f"msg-{message.message_id}")
        finally:
            self.under_way -= 1

    def claim(
        self, command: Notification, key: bytes | None, attempts: int, provider_id: str
    ) -> Claim:
        return Claim(f"claim-{command.notification_id}", b"", 60, f"word-{command.notification_id}")

    def moments(self, message_id: str) -> list[float]:
        """Return the times at which a message was tried."""
        return [moment for moment, tried, _ in self.attempts if tried == message_id]


class World:
    """One worker's sender, with a fake of its engine."""

    def __init__(
        self,
        channel: FakeChannel | None = None,
        ledger: MemoryLedger | None = None,
        *,
        most_at_once: int = 8,
        grace_s: float = 3.0,
        is_ahead_s: float = 0.0,
    ) -> None:
        """`is_ahead_s`: by how much its wall clock is ahead; a test may set it back."""
        self.is_ahead_s = is_ahead_s
        self.channel = channel or FakeChannel()
        self.ledger = ledger or MemoryLedger()
        self.outputs: list[Output] = []
        self._progress = asyncio.Event()
        self.finished: dict[tuple[int, int], float] = {}
        self.accounts: dict[str, Account] = defaultdict()
        self.agent = SendAgent(
            self.channel,
            topic="g-wechat-outbox",
            deliveries="deliveries",
            dead_letters="dead-letters",
            ledger=self.ledger,
            lookup=self._account,
            zone=SHANGHAI,
            most_at_once=most_at_once,
            grace_s=grace_s,
            now=lambda: now() + int(self.is_ahead_s * SECOND),
            random=lambda: 0.0,
        )
        self.crashes: list[Exception] = []
        self.agent.bind(self._finish, self.crashes.append)

    def _account(self, account_id: str) -> Account | None:
        return self.accounts.get(account_id, Account(account_id, "甲", openid=f"o-{account_id}"))

    def _finish(self, partition: int, offset: int, outputs: list[Output]) -> None:
        assert (partition, offset) not in self.finished, "finished twice"
        self.finished[partition, offset] = asyncio.get_running_loop().time()
        self.outputs += outputs
        self._progress.set()

    def take(
        self,
        *commands: Notification,
        partition: int = 0,
        offset: int = 0,
        headers: Sequence[Header] = (),
    ) -> None:
        """Give commands to the agent, at consecutive offsets."""
        records = [
            OutboxRecord(
                offset + i,
                (command.account_id or command.openid or "").encode(),
                encode(command),
                headers,
            )
            for i, command in enumerate(commands)
        ]
        self.agent.take(partition, records)

    async def done(self, partition: int = 0) -> None:
        """Wait until nothing is pending."""
        while self.agent.pending(partition):
            self._progress.clear()
            await self._progress.wait()

    def deliveries(self) -> list[Delivery]:
        """Return the records of `deliveries`, in order."""
        return [
            msgspec.json.decode(output.value or b"", type=Delivery)
            for output in self.outputs
            if output.topic == "deliveries"
        ]

    def statuses(self) -> dict[str, list[str]]:
        """Return the statuses of each notification, in order."""
        found: dict[str, list[str]] = defaultdict(list)
        for delivery in self.deliveries():
            found[delivery.notification_id].append(delivery.status)
        return dict(found)

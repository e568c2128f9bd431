"""A simulated platform: customers, their calls, recharges, announcements and the time of day.

Everything comes from a seed: the same seed gives the same records, byte for byte. The names and
numbers are nobody's.
"""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from streams.topics import ContractTopic, partition_of

SECONDS_BETWEEN_CALLS = 0.4
CALL_PRICE_FEN = 6
THRESHOLD_FEN = 5_000
RECHARGE_FEN = 50_000
# One call in so many is published twice; one in so many is invalid.
REPEAT_EVERY = 100
RUBBISH_EVERY = 2_000
UNREACHABLE_CALLS = 250
BROKEN_LINE_CALLS = 130
RECHARGE_AFTER_CALLS = 200

_NAMES = (
    "云帆科技", "晨星教育", "远山家居", "蓝海保险", "青禾农业", "北辰物流",
    "星河传媒", "安和医疗", "乐途旅行", "万象地产", "朗月餐饮", "启明软件",
)  # fmt: skip
_RESULTS = "ABCDEFW"
_WEIGHTS = (2, 4, 60, 120, 150, 650, 14)
_LINES = tuple(f"line-{number}" for number in range(1, 9))
_BROKEN_LINE = "line-broken"
_RUBBISH = (
    b"{",
    b'{"call_id":"x","account_id":"acme"}',
    b'{"call_id":1}',
    b"\xff\xfe not JSON",
)

encode = msgspec.json.Encoder().encode


class Event(NamedTuple):
    """One record to publish."""

    topic: ContractTopic
    key: bytes | None
    value: bytes
    partition: int | None = None
    """None: the partition of the key."""


class _Customer:
    def __init__(self, number: int, name: str, rng: random.Random) -> None:
        self.account_id = f"account-{number:02d}"
        self.key = self.account_id.encode()
        self.number = number
        self.name = name
        self.fen = 5_600 if number == 2 else 30_000
        self.low_calls = 0
        self.batch = 0
        self.size = 0
        self.next_index = 0
        self.order: list[int] = []
        self.submitted = ""
        self.unreachable = 0
        self.rng = rng

    def record(self, start: datetime) -> dict[str, Any]:
        number = self.number
        record: dict[str, Any] = {
            "account_id": self.account_id,
            "name": self.name,
            # One customer has never followed the official account, one has no phone.
            "openid": None if number == 5 else f"oSandbox_{number:04d}_{self.rng.randrange(10**9)}",
            "phone": None if number == 6 else f"1390000{number:04d}",
            "intent_classes": ["A", "B"] if number % 2 else ["A"],
            "balance_threshold": f"{THRESHOLD_FEN / 100:.2f}",
            "expires_at": (start + timedelta(days=3 if number == 4 else 200)).isoformat(),
        }
        if number == 7:
            record["channels"] = {"batch_completed": ["inbox"]}
        return record

    def begin_batch(self, now: datetime) -> None:
        self.batch += 1
        self.size = self.rng.randrange(100, 600)
        self.order = list(range(self.size))
        self.rng.shuffle(self.order)
        self.next_index = 0
        self.submitted = (now - timedelta(seconds=self.rng.randrange(5, 60))).isoformat()


class Dialer:
    """Simulates one day from `start`, a datetime with a zone."""

    def __init__(self, *, seed: int, calls: int, start: datetime, partitions: int) -> None:
        self._rng = random.Random(seed)
        self._calls = calls
        self._start = start
        self._partitions = partitions
        self._customers = [
            _Customer(number, name, random.Random(f"{seed} {number}"))
            for number, name in enumerate(_NAMES, 1)
        ]
        self._serial = 0

    def accounts(self) -> Iterator[Event]:
        """Yield the customers' records, to be published before the first call."""
        for customer in self._customers:
            value = encode(customer.record(self._start))
            yield Event(ContractTopic.ACCOUNTS, customer.key, value)

    def events(self) -> Iterator[Event]:
        """Yield all events of the day in order: the valid calls, and everything else."""
        now, minute = self._start, -1
        broken = 0
        breaks_at, fails_at = self._calls // 4, self._calls // 2
        for number in range(self._calls):
            now = self._start + timedelta(seconds=number * SECONDS_BETWEEN_CALLS)
            if int((now - self._start).total_seconds()) // 60 > minute:
                minute += 1
                yield from self._ticks(now)
            if number == breaks_at:
                self._customers[2].unreachable = UNREACHABLE_CALLS
            if number == fails_at:
                broken = BROKEN_LINE_CALLS
                yield from self._announcements(now)
            customer = self._rng.choice(self._customers[: 3 if broken else None])
            event = self._call(customer, now, is_broken=broken > 0)
            broken = max(0, broken - 1)
            yield event
            if number % REPEAT_EVERY == REPEAT_EVERY - 1:
                yield event
            if number % RUBBISH_EVERY == RUBBISH_EVERY - 1:
                rubbish = _RUBBISH[number // RUBBISH_EVERY % len(_RUBBISH)]
                yield Event(ContractTopic.CALL_RECORDS, customer.key, rubbish)
            yield from self._recharge(customer, now)
        yield from self._ticks(now + timedelta(minutes=1))

    def partition_of(self, key: bytes) -> int:
        """Return where the Java default partitioner puts a key."""
        return partition_of(key, self._partitions)

    def _call(self, customer: _Customer, now: datetime, *, is_broken: bool) -> Event:
        if customer.next_index >= customer.size:
            customer.begin_batch(now)
        result = self._rng.choices(_RESULTS, _WEIGHTS)[0]
        line = self._rng.choice(_LINES)
        if is_broken:
            result, line = "W", _BROKEN_LINE
        elif customer.unreachable:
            customer.unreachable -= 1
            result = "F"
        index = customer.order[customer.next_index]
        customer.next_index += 1
        customer.fen -= CALL_PRICE_FEN
        self._serial += 1
        call: dict[str, Any] = {
            "call_id": f"call-{self._serial:08d}",
            "account_id": customer.account_id,
            "line_id": line,
            "result": result,
            "phone": f"137{self._rng.randrange(10**8):08d}",
            "submitted_at": customer.submitted,
            "batch_size": customer.size,
            "batch_index": index,
            "ended_at": now.isoformat(),
            "balance": f"{customer.fen / 100:.2f}",
            "duration_s": 0 if result in "FW" else self._rng.randrange(3, 180),
        }
        if result == "W":
            call["error"] = "SIP 503 Service Unavailable"
        return Event(ContractTopic.CALL_RECORDS, customer.key, encode(call))

    def _recharge(self, customer: _Customer, now: datetime) -> Iterator[Event]:
        """Yield a recharge, some calls after the balance became low."""
        if customer.fen >= THRESHOLD_FEN:
            return
        customer.low_calls += 1
        if customer.low_calls < RECHARGE_AFTER_CALLS:
            return
        customer.low_calls = 0
        customer.fen += RECHARGE_FEN
        self._serial += 1
        recharge = {
            "recharge_id": f"recharge-{self._serial:08d}",
            "account_id": customer.account_id,
            "amount": f"{RECHARGE_FEN / 100:.2f}",
            "balance": f"{customer.fen / 100:.2f}",
            "completed_at": now.isoformat(),
        }
        yield Event(ContractTopic.RECHARGES, customer.key, encode(recharge))

    def _announcements(self, now: datetime) -> Iterator[Event]:
        for kind, title, content in (
            (
                "upgrade",
                "系统升级通知",
                "系统将于今晚22:00升级，期间外呼任务会自动暂停。",
            ),
            ("internal", "内部测试", "这条公告不会通知任何人。"),
        ):
            announcement = {
                "announcement_id": f"announcement-{kind}",
                "kind": kind,
                "title": title,
                "content": content,
                "published_at": now.isoformat(),
            }
            key = f"announcement-{kind}".encode()
            yield Event(ContractTopic.ANNOUNCEMENTS, key, encode(announcement))

    def _ticks(self, now: datetime) -> Iterator[Event]:
        value = encode({"at": now.isoformat()})
        for partition in range(self._partitions):
            yield Event(ContractTopic.TICKS, None, value, partition)

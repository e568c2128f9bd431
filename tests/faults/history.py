"""What a round publishes: calls live, in legs; accounts and time change only at a standstill.

Between topics there is no order, so whatever must come before something else is published while
nothing else is under way, and balances of one account come from one topic. Then the naive oracle
knows what is right, whatever happens to the workers meanwhile.
"""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from aiokafka.partitioner import murmur2

from tests.oracle import Oracle

ZONE = ZoneInfo("Asia/Shanghai")
RUN_LENGTH = 10
RETENTION = timedelta(days=7)
WINDOW = timedelta(hours=24)
SHARED_LINE = "line-shared"
"""Its calls come from all partitions, all of them errors: any interleaving is right."""
RUBBISH = b"rubbish"
ACCOUNTS = 12
LEGS = 3


class Event(NamedTuple):
    topic: str
    key: str | None
    value: Any
    partition: int


class SharedLineApart(Oracle):
    """The oracle, but for the line of which it can't know the order."""

    def count_line(self, call: dict[str, Any], ended: datetime) -> None:
        if call["line_id"] != SHARED_LINE:
            super().count_line(call, ended)


class History:
    """One seed's records, made as they are asked for; `published` holds all of them in order."""

    def __init__(self, rng: random.Random, partitions: int) -> None:
        self.rng = rng
        self.partitions = partitions
        # Long ago: a tick of tomorrow would be invalid, and this machine's clock may show any day.
        self.now = datetime(2019, 11, 4, 10, 0, tzinfo=ZONE)
        self.published: list[Event] = []
        self.calls = 0
        self.shared_calls = [0]
        """Calls of the shared line, by stretch of time that its run survives."""
        self.oracle = SharedLineApart(
            RUN_LENGTH, WINDOW, RETENTION, timedelta(days=7),
            datetime.strptime("09:00", "%H:%M").time(), ZONE,  # noqa: DTZ007
        )  # fmt: skip
        self.oracle.partition_of = self.place  # type: ignore[method-assign]
        self._names = [f"acc-{number}" for number in range(ACCOUNTS)]
        self._books: dict[str, tuple[int, int]] = {}
        self._batches = Counter[str]()
        self._sticky = dict.fromkeys(self._names, "F")
        # Only what is of the same leg is repeated: between legs accounts are deleted, and with
        # them what was known of their calls and recharges.
        self._leg_calls: list[Event] = []
        self._leg_recharge: Event | None = None
        self._recharges = 0

    def place(self, key: str) -> int:
        """Where a key lies."""
        return int((murmur2(key.encode()) & 0x7FFFFFFF) % self.partitions)

    # -- at a standstill ----------------------------------------------------------------------

    def before_leg(self, leg: int) -> Iterator[list[Event]]:
        """Yield what is published before a leg; each part only when all before it is over."""
        self._leg_calls, self._leg_recharge = [], None
        for name in self._names:
            self._batches[name] += 1
            self._books[name] = (0, self.rng.randrange(20, 60))
        if leg == 0:
            yield self._all([self._account(name) for name in self._names])
        elif leg == 1:
            self.now = self.now.replace(hour=9, minute=30) + timedelta(days=1)
            gone, changed = self._names[1], self._names[2]
            yield self._all(self._ticks(self.now + timedelta(minutes=30)))
            yield self._all(
                [
                    Event("accounts", gone, None, self.place(gone)),
                    self._account(
                        changed,
                        intent_classes=["B", "E"],
                        balance_threshold="90.00",
                        channels={"unreachable_run": ["sms"], "line_error_run": ["inbox"]},
                    ),
                ]
            )
        else:
            # All batches and runs are over, and so is the run of the shared line.
            self.now = self.now.replace(hour=9, minute=30) + timedelta(days=10)
            self.shared_calls.append(0)
            yield self._all([self._account(self._names[1])])
            yield self._all(self._ticks(self.now + timedelta(minutes=30)))

    def after_legs(self) -> list[Event]:
        """Return the last day's tick."""
        return self._all(self._ticks(self.now + timedelta(days=1)))

    def _ticks(self, at: datetime) -> list[Event]:
        return [Event("ticks", None, {"at": at.isoformat()}, n) for n in range(self.partitions)]

    def _account(self, name: str, **changed: Any) -> Event:
        number = int(name.rpartition("-")[2])
        value: dict[str, Any] = {
            "account_id": name,
            "name": f"{name} {len(self.published)}",
            "openid": None if number == 5 else f"openid_{name}",
            "phone": f"138000000{number:02d}" if number % 2 else None,
            "intent_classes": ["A"] if number % 2 else [],
            "balance_threshold": "50.00" if number % 3 else None,
            "expires_at": (self.now + timedelta(days=5)).isoformat() if number % 4 == 0 else None,
        }
        return Event("accounts", name, value | changed, self.place(name))

    # -- in a leg -----------------------------------------------------------------------------

    def announcement(self, leg: int) -> list[Event]:
        said = {
            "announcement_id": f"n{leg}", "kind": "upgrade", "title": "t", "content": "c",
            "published_at": self.now.isoformat(),
        }  # fmt: skip
        return self._all([Event("announcements", f"n{leg}", said, self.place(f"n{leg}"))])

    def some(self, count: int) -> list[Event]:
        """Return calls of runs, batches and lines, with repeats, rubbish and recharges."""
        rng, made = self.rng, list[Event]()
        for _ in range(count):
            name = rng.choice(self._names)
            made.append(self._call(name))
            if rng.random() < 0.05:
                made.append(self._leg_calls[rng.randrange(-min(300, len(self._leg_calls)), 0)])
            if rng.random() < 0.005:
                made.append(Event("call-records", name, RUBBISH, self.place(name)))
            if rng.random() < 0.02:
                made.append(self._recharge(name))
        return self._all(made)

    def _call(self, name: str) -> Event:
        rng = self.rng
        self.now += timedelta(seconds=1)
        self.calls += 1
        index, size = self._books[name]
        if index == size:
            self._batches[name] += 1
            index, size = 0, rng.randrange(20, 60)
        self._books[name] = index + 1, size
        if rng.random() < 0.08:
            self._sticky[name] = rng.choice("FFFWWABE")
        line, result = f"line-{self.place(name)}", self._sticky[name]
        if result == "W" and rng.random() < 0.3:
            line = SHARED_LINE
            self.shared_calls[-1] += 1
        submitted = self.now.replace(hour=0, minute=0, second=0) + timedelta(
            minutes=self._batches[name]
        )
        call = {
            "call_id": f"c{self.calls}",
            "account_id": name,
            # All calls of any other line come through one partition: their order is known.
            "line_id": line,
            "result": result,
            "phone": "13700000000",
            "submitted_at": submitted.isoformat(),
            "batch_size": size,
            "batch_index": index,
            "ended_at": self.now.isoformat(),
        }
        if not self._is_recharging(name):
            call["balance"] = f"{rng.randrange(0, 100)}.00"
        event = Event("call-records", name, call, self.place(name))
        self._leg_calls.append(event)
        return event

    def _recharge(self, name: str) -> Event:
        rng = self.rng
        if not self._is_recharging(name):
            name = self._names[1]
        if self._leg_recharge is not None and rng.random() < 0.2:
            return self._leg_recharge
        self._recharges += 1
        value = {
            "recharge_id": f"r{self._recharges}",
            "account_id": name,
            "amount": "1.00",
            "balance": f"{rng.randrange(0, 100)}.00",
            "completed_at": self.now.isoformat(),
        }
        self._leg_recharge = Event("recharges", name, value, self.place(name))
        return self._leg_recharge

    @staticmethod
    def _is_recharging(name: str) -> bool:
        return int(name.rpartition("-")[2]) % 3 == 1

    def _all(self, events: list[Event]) -> list[Event]:
        self.published += events
        for event in events:
            self.oracle.take(*event)
        return events

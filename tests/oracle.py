"""The oracle: computes the right commands in the slow and obvious way, from the contract alone.

Shares no code with the program: plain dicts, datetimes and Decimals, one record after the other.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

CHEAP = ["inbox", "wechat"]
URGENT = ["inbox", "wechat", "sms"]
DEFAULTS = {
    "interested_customer": CHEAP,
    "batch_completed": CHEAP,
    "unreachable_run": CHEAP,
    "line_error_run": CHEAP,
    "announcement": CHEAP,
    "low_balance": URGENT,
    "recharge_received": URGENT,
    "account_expiring": URGENT,
}


class Noticed(NamedTuple):
    """The fields of a command that can be compared."""

    scenario: str
    account_id: str
    channel: str
    occurred_at: datetime
    cause: str
    name: str


@dataclass
class Batch:
    size: int
    seen: set[int] = field(default_factory=set)
    last_ended: datetime | None = None


@dataclass
class Run:
    calls: list[str] = field(default_factory=list)
    last: datetime | None = None
    counted: datetime | None = None
    """The partition's latest tick when the run was last counted on."""


@dataclass
class Oracle:
    """Feed it records in their order; read `noticed` and `invalid`."""

    run_length: int
    window: timedelta
    retention: timedelta
    notice: timedelta
    reminder: time
    zone: ZoneInfo
    noticed: list[Noticed] = field(default_factory=list)
    invalid: int = 0
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    batches: dict[tuple[str, datetime], Batch] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=lambda: defaultdict(Run))
    lines: dict[str, Run] = field(default_factory=lambda: defaultdict(Run))
    line_accounts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    balances: dict[str, Decimal] = field(default_factory=dict)
    told_days: set[tuple[str, Any]] = field(default_factory=set)
    told_expiries: set[tuple[str, datetime]] = field(default_factory=set)
    recharges: set[tuple[str, str]] = field(default_factory=set)
    last_tick: dict[int, datetime] = field(default_factory=dict)

    def take(
        self, topic: str, key: str | None, value: Any, partition: int, at: datetime | None = None
    ) -> None:
        """Fold a record. A value of bytes is invalid. `at`: the record's own timestamp, if any."""
        if isinstance(value, bytes):
            self.invalid += 1
        elif topic == "accounts":
            self.take_account(key or "", value)
        elif topic == "call-records":
            self.take_call(value)
        elif topic == "recharges":
            self.take_recharge(value)
        elif topic == "announcements":
            self.take_announcement(value)
        elif at and datetime.fromisoformat(value["at"]) - at > timedelta(hours=24):
            self.invalid += 1
        else:
            self.take_tick(value, partition)

    def channels(self, account_id: str, scenario: str) -> list[str]:
        chosen = (self.accounts.get(account_id, {}).get("channels") or {}).get(scenario)
        return DEFAULTS[scenario] if chosen is None else list(dict.fromkeys(chosen))

    def tell(
        self, scenario: str, account_id: str, at: datetime, cause: dict[str, Any],
        channels: list[str] | None = None,
    ) -> None:  # fmt: skip
        name = self.accounts.get(account_id, {}).get("name", account_id)
        said = json.dumps(cause, sort_keys=True)
        for channel in self.channels(account_id, scenario) if channels is None else channels:
            self.noticed.append(Noticed(scenario, account_id, channel, at, said, name))

    def take_account(self, account_id: str, value: dict[str, Any] | None) -> None:
        if value is not None:
            self.accounts[account_id] = value
            return
        self.accounts.pop(account_id, None)
        self.runs.pop(account_id, None)
        self.balances.pop(account_id, None)
        self.batches = {key: one for key, one in self.batches.items() if key[0] != account_id}
        self.told_days = {one for one in self.told_days if one[0] != account_id}
        self.told_expiries = {one for one in self.told_expiries if one[0] != account_id}
        self.recharges = {one for one in self.recharges if one[0] != account_id}

    def take_call(self, call: dict[str, Any]) -> None:
        account_id, ended = call["account_id"], datetime.fromisoformat(call["ended_at"])
        submitted = datetime.fromisoformat(call["submitted_at"])
        batch = self.batches.setdefault((account_id, submitted), Batch(call["batch_size"]))
        if batch.size != call["batch_size"]:
            self.invalid += 1
            return
        if call["batch_index"] in batch.seen:
            return
        batch.seen.add(call["batch_index"])
        batch.last_ended = max(batch.last_ended or ended, ended)
        account = self.accounts.get(account_id, {})
        if call["result"] in (account.get("intent_classes") or []):
            cause = {name: call[name] for name in ("call_id", "phone", "result")}
            self.tell("interested_customer", account_id, ended, cause)
        if len(batch.seen) == batch.size:
            cause = {"submitted_at": submitted.timestamp(), "batch_size": batch.size}
            self.tell("batch_completed", account_id, ended, cause)
        reached = self.count(self.runs[account_id], call, ended, "F", account_id)
        if reached:
            self.tell("unreachable_run", account_id, ended, reached)
        self.count_line(call, ended)
        if call.get("balance") is not None:
            self.take_balance(account_id, Decimal(call["balance"]), ended)

    def count(self, run: Run, call: dict[str, Any], ended: datetime, result: str, key: str) -> Any:
        if call["result"] != result:
            run.calls = []
            return None
        # Clean-up: a run is forgotten when ticks are so much later than it was last counted on.
        tick = self.last_tick.get(self.partition_of(key))
        kept = self.window + timedelta(days=366)
        if tick is not None and run.counted is not None and tick - run.counted > kept:
            run.calls = []
        run.counted = tick
        if run.calls and run.last is not None and ended - run.last > self.window:
            run.calls = []
        run.calls.append(call["call_id"])
        run.last = ended
        if len(run.calls) < self.run_length:
            return None
        cause = {
            "run_length": self.run_length,
            "first_call_id": run.calls[0],
            "call_id": run.calls[-1],
        }
        run.calls = []
        return cause

    def count_line(self, call: dict[str, Any], ended: datetime) -> None:
        line_id, account_id = call["line_id"], call["account_id"]
        run = self.lines[line_id]
        reached = self.count(run, call, ended, "W", line_id)
        if call["result"] != "W":
            self.line_accounts[line_id] = {}
            return
        if len(run.calls) == 1 or (reached and self.run_length == 1):
            self.line_accounts[line_id] = {}
        told = self.line_accounts.setdefault(line_id, {})
        told[account_id] = self.channels(account_id, "line_error_run")
        if reached:
            for other, channels in told.items():
                cause = reached | {"line_id": line_id}
                self.tell("line_error_run", other, ended, cause, channels)
            self.line_accounts[line_id] = {}

    def threshold(self, account_id: str) -> Decimal | None:
        text = self.accounts.get(account_id, {}).get("balance_threshold")
        return None if text is None else Decimal(text)

    def take_balance(self, account_id: str, balance: Decimal, at: datetime) -> None:
        before, threshold = self.balances.get(account_id), self.threshold(account_id)
        self.balances[account_id] = balance
        if (
            threshold is not None
            and balance < threshold
            and (before is None or before >= threshold)
        ):
            self.tell_low(account_id, at)

    def tell_low(self, account_id: str, at: datetime) -> None:
        day = account_id, at.astimezone(self.zone).date()
        if day in self.told_days:
            return
        self.told_days.add(day)
        cause = {
            "balance": str(self.balances[account_id]),
            "threshold": str(self.threshold(account_id)),
        }
        self.tell("low_balance", account_id, at, cause)

    def take_recharge(self, recharge: dict[str, Any]) -> None:
        account_id = recharge["account_id"]
        if (account_id, recharge["recharge_id"]) in self.recharges:
            return
        self.recharges.add((account_id, recharge["recharge_id"]))
        at = datetime.fromisoformat(recharge["completed_at"])
        cause = {name: recharge[name] for name in ("recharge_id", "amount", "balance")}
        self.tell("recharge_received", account_id, at, cause)
        self.take_balance(account_id, Decimal(recharge["balance"]), at)

    def take_announcement(self, said: dict[str, Any]) -> None:
        if said["kind"] not in {"upgrade", "service"}:
            return
        at = datetime.fromisoformat(said["published_at"])
        for account_id in self.accounts:
            self.tell("announcement", account_id, at, {"announcement_id": said["announcement_id"]})

    def take_tick(self, tick: dict[str, Any], partition: int) -> None:
        at = datetime.fromisoformat(tick["at"])
        if partition in self.last_tick and at < self.last_tick[partition]:
            return
        if partition not in self.last_tick:
            # What was counted before the first tick counts as counted at its time.
            for key, run in [*self.runs.items(), *self.lines.items()]:
                if self.partition_of(key) == partition:
                    run.counted = at
        self.last_tick[partition] = at
        local = at.astimezone(self.zone)
        if local.time() >= self.reminder:
            for account_id, account in self.accounts.items():
                if self.partition_of(account_id) == partition:
                    self.remind(account_id, account, at)
        self.batches = {
            key: one
            for key, one in self.batches.items()
            if self.partition_of(key[0]) != partition
            or one.last_ended is None
            or at - one.last_ended <= self.retention
        }

    def remind(self, account_id: str, account: dict[str, Any], at: datetime) -> None:
        threshold, balance = self.threshold(account_id), self.balances.get(account_id)
        if threshold is not None and balance is not None and balance < threshold:
            self.tell_low(account_id, at)
        if account.get("expires_at"):
            expires = datetime.fromisoformat(account["expires_at"])
            key = account_id, expires
            if expires - self.notice <= at < expires and key not in self.told_expiries:
                self.told_expiries.add(key)
                self.tell("account_expiring", account_id, at, {"expires_at": expires.timestamp()})

    def partition_of(self, account_id: str) -> int:
        """Return the partition of an account's key. The test sets this."""
        raise NotImplementedError


def normalized(command: dict[str, Any]) -> Noticed:
    """Return a published command in the oracle's form. The name is taken from the text."""
    cause = dict(command["cause"])
    for name in ("submitted_at", "expires_at"):
        if name in cause:
            cause[name] = datetime.fromisoformat(cause[name]).timestamp()
    content = command["content"]
    is_named = content.startswith("尊敬的")
    return Noticed(
        command["scenario"],
        command["account_id"],
        command["channel"],
        datetime.fromisoformat(command["occurred_at"]),
        json.dumps(cause, sort_keys=True),
        content[3 : content.index("，")] if is_named else "",
    )


NAMED = {"low_balance", "recharge_received", "account_expiring"}


def comparable(noticed: list[Noticed]) -> list[Noticed]:
    """Sort, and drop the name where the text has none."""
    return sorted(one if one.scenario in NAMED else one._replace(name="") for one in noticed)

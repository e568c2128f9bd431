"""The summary of a replay: commands counted by scenario, day and hour, and who gets the most."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from app.analysis.commands import VARIANT_COLUMNS, ToldCommand
from app.analysis.refold import ALL
from app.analysis.variants import Variant

MOST_TOLD = 20
COLUMNS: dict[str, type] = {
    **VARIANT_COLUMNS,
    "of": str,
    "day": str,
    "scenario": str,
    "channel": str,
    "account_id": str,
    "notifications": int,
    "accounts": int,
    "cost": float,
}
_SMS_LENGTH, _SMS_PART_LENGTH = 70, 67


class Summary:
    """Counts commands by variant. Its size grows with days and accounts, not with commands."""

    def __init__(
        self, variants: Sequence[Variant], *, sms_price: float | None = None, signature: str = ""
    ) -> None:
        """`sms_price`: for one SMS. `signature`: the text that the gateway puts before each."""
        self.variants = variants
        self.sms_price = sms_price
        self._signed = len(f"【{signature}】")
        self._counts: Counter[tuple[int, str, str, str]] = Counter()
        self._accounts: dict[int, Counter[str]] = {ALL: Counter()}
        self._accounts |= {number: Counter() for number in range(len(variants))}
        self._told: dict[tuple[int, str, str], set[str]] = {}
        self._parts: Counter[int] = Counter()
        self._hours: Counter[tuple[int, str, str]] = Counter()

    def add(self, variant: int, said: ToldCommand) -> None:
        """Count a command, under the local day in its `occurred_at`."""
        account = said.account_id or ""
        self._counts[variant, said.occurred_at[:10], said.scenario, said.channel] += 1
        self._hours[variant, said.occurred_at[:13], said.scenario] += 1
        self._accounts[variant][account] += 1
        self._told.setdefault((variant, said.scenario, said.channel), set()).add(account)
        if said.channel == "sms":
            length = self._signed + len(said.content)
            self._parts[variant] += 1 if length <= _SMS_LENGTH else -(-length // _SMS_PART_LENGTH)

    def by_day(self, variant: int) -> dict[tuple[str, str, str], int]:
        """Return (day, scenario, channel) → number of commands, in order."""
        counted: Counter[tuple[str, str, str]] = Counter()
        for (number, *rest), count in self._counts.items():
            if number in (ALL, variant):
                counted[rest[0], rest[1], rest[2]] += count
        return dict(sorted(counted.items()))

    def by_hour(self, variant: int) -> dict[tuple[str, str], int]:
        """Return (hour, such as `2026-11-24T09`, scenario) → number of commands, in order."""
        counted: Counter[tuple[str, str]] = Counter()
        for (number, hour, scenario), count in self._hours.items():
            if number in (ALL, variant):
                counted[hour, scenario] += count
        return dict(sorted(counted.items()))

    def accounts(self, variant: int) -> Counter[str]:
        """Return account → number of messages."""
        return self._accounts[ALL] + self._accounts[variant]

    def accounts_of(self, variant: int, scenario: str, channel: str) -> int:
        """Return how many accounts get messages of a scenario by a channel."""
        every, own = (self._told.get((n, scenario, channel), set()) for n in (ALL, variant))
        return len(every | own)

    def most_told(self, variant: int) -> list[tuple[str, int]]:
        """Return the accounts with the most messages, most first; equal ones by name."""
        counted = self.accounts(variant)
        return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:MOST_TOLD]

    def notifications(self, variant: int) -> int:
        """Return the number of all commands."""
        return sum(self.by_day(variant).values())

    def sms(self, variant: int) -> int:
        """Return the number of SMS."""
        return sum(n for (_, _, channel), n in self.by_day(variant).items() if channel == "sms")

    def sms_parts(self, variant: int) -> int:
        """Return the number of parts in which networks carry the SMS: one up to 70 characters, else
        one for every 67."""
        return self._parts[ALL] + self._parts[variant]

    def cost(self, messages: int) -> float | None:
        """Return the price of so many SMS; None: no price was given."""
        return None if self.sms_price is None else round(messages * self.sms_price, 4)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return all counts as rows of `COLUMNS`. The column `of` says what a row counts: a `day`'s
        commands of one scenario and channel, those of a `scenario`, of a `variant`, or of an
        `account` among those with the most."""
        rows: list[tuple[Any, ...]] = []
        for number, variant in enumerate(self.variants):
            head = variant.run_length, variant.hours
            days = self.by_day(number)
            accounts = self.accounts(number)
            rows.append(
                (*head, "variant", None, None, None, None, sum(days.values()), len(accounts),
                 self.cost(self.sms(number)))
            )  # fmt: skip
            scenarios: Counter[tuple[str, str]] = Counter()
            for (_, scenario, channel), count in days.items():
                scenarios[scenario, channel] += count
            for (scenario, channel), count in sorted(scenarios.items()):
                rows.append(
                    (*head, "scenario", None, scenario, channel, None, count,
                     self.accounts_of(number, scenario, channel), self._cost_of(channel, count))
                )  # fmt: skip
            for (day, scenario, channel), count in days.items():
                rows.append(
                    (*head, "day", day, scenario, channel, None, count, None,
                     self._cost_of(channel, count))
                )  # fmt: skip
            for account, count in self.most_told(number):
                rows.append((*head, "account", None, None, None, account, count, None, None))
        return rows

    def _cost_of(self, channel: str, count: int) -> float | None:
        return self.cost(count) if channel == "sms" else None

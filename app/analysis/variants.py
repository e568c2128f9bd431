"""What-if variants: several lengths and windows of runs, with one fold of everything else.

Only runs depend on length and window, so an account's batches, balances and repeats are folded once
for all variants. A line's runs are folded from segments, by one lines agent for each variant.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agents.rules import Rules
from app.errors import SettingsError, all_of
from app.settings.kinds import is_number
from streams.engine.state import State
from streams.records import Call, encode
from streams.times import HOUR
from tables import runs, texts
from tables.lines import LineCall
from tables.runs import Run
from tables.state_tables import CUSTOMERS

_MOST_VARIANTS = 100
_LENGTH = re.compile(r"[1-9]\d{0,8}", re.ASCII)

NEVER = 1 << 60
"""A length that no run reaches."""


@dataclass(frozen=True)
class Variant:
    """One combination of what `--run-length` and `--window-hours` ask for."""

    run_length: int
    window_hours: float

    def rules(self, rules: Rules) -> Rules:
        """Return the rules with this variant's length and window."""
        return replace(rules, run_length=self.run_length, run_window_hours=self.window_hours)

    @property
    def hours(self) -> int | float:
        """The window in hours as people write it: 24, not 24.0."""
        return int(self.window_hours) if self.window_hours.is_integer() else self.window_hours

    def __str__(self) -> str:
        return f"{self.run_length} in {self.hours} h"


def lengths_of(text: str) -> list[int]:
    """Parse lengths such as `50,100`. Raises SettingsError."""
    lengths = []
    for one in text.split(","):
        if _LENGTH.fullmatch(one) is None:
            raise SettingsError(
                [f"--run-length: {one or 'nothing'} is no number of calls, 1 or more"]
            )
        lengths.append(int(one))
    return lengths


def windows_of(text: str) -> list[float]:
    """Parse windows in hours such as `6,24`. Raises SettingsError."""
    windows = []
    for one in text.split(","):
        hours = _hours(one)
        if hours is None:
            raise SettingsError(
                [f"--window-hours: {one or 'nothing'} is no number of hours above 0"]
            )
        windows.append(hours)
    return windows


def variants_of(
    rules: Rules, run_length: str | None, window_hours: str | None
) -> tuple[Variant, ...]:
    """Return every combination of lengths and windows (each a text such as `50,100`); the rules'
    own one where it is None.

    Raises SettingsError.
    """
    lengths, windows = all_of(
        lambda: [rules.run_length] if run_length is None else lengths_of(run_length),
        lambda: [rules.run_window_hours] if window_hours is None else windows_of(window_hours),
    )
    variants = tuple(
        dict.fromkeys(Variant(length, float(window)) for length in lengths for window in windows)
    )
    if len(variants) > _MOST_VARIANTS:
        raise SettingsError(
            [f"--run-length, --window-hours: {len(variants)} variants are more than a person can "
             f"compare; at most {_MOST_VARIANTS}"]
        )  # fmt: skip
    return variants


def _hours(text: str) -> float | None:
    hours = float(text) if is_number(text) else 0.0
    return hours if 0 < hours <= 1_000_000 else None


class AccountRuns:
    """Folds accounts' runs for all variants, as the calls agent does for one."""

    def __init__(
        self, rules: Rules, variants: Sequence[Variant], on_told: Callable[[int, bytes], None]
    ) -> None:
        """`on_told` is called with a variant's number and a command."""
        self._zone = rules.zone
        self._variants = [
            (number, one.run_length, one.run_window, one.run_retention)
            for number, one in enumerate(variant.rules(rules) for variant in variants)
        ]
        self._on_told = on_told
        self._runs: dict[int, dict[bytes, list[Run]]] = {}
        self._ticked: set[int] = set()

    def count(self, state: State, key: bytes, call: Call, ended: int, clock: int) -> None:
        """Count a call that is neither invalid nor a repeat."""
        here = self._runs.get(state.partition)
        if here is None:
            here = self._runs[state.partition] = {}
        known = here.get(key)
        if call.result != "F":
            if known is not None:
                for run in known:
                    runs.end(run)
            return
        if known is None:
            known = here[key] = [Run() for _ in self._variants]
        for run, (number, length, window, retention) in zip(known, self._variants, strict=True):
            if clock > run.tick:
                runs.go_on(run, clock, retention)
            reached = runs.fold(run, call.call_id, ended, length, window)
            if reached is not None:
                customer = state.peek(CUSTOMERS, key)
                for command in texts.unreachable_run(
                    call.account_id, customer, reached, ended, self._zone
                ):
                    self._on_told(number, encode(command))

    def on_tick(self, partition: int, clock: int) -> None:
        """Note a partition's tick. What was counted before the first one counts as counted at its
        time (see `tables.accounts.seen_by_a_tick`)."""
        if partition in self._ticked:
            return
        self._ticked.add(partition)
        for known in self._runs.get(partition, {}).values():
            for run in known:
                run.tick = run.tick or clock


class Lengths:
    """Counts the lengths of runs that no alert ends: window (hours) → length → how many. Either for
    accounts (results `F`) or for lines (results `W`)."""

    def __init__(self, window_hours: Sequence[float]) -> None:
        self.seen: dict[float, Counter[int]] = {hours: Counter() for hours in window_hours}
        self._windows = [(int(hours * HOUR), self.seen[hours]) for hours in self.seen]
        self._runs: dict[bytes, list[list[int]]] = {}

    def count(self, key: bytes, ended: int, *, is_in_run: bool) -> None:
        """Count one call of an account or a line."""
        known = self._runs.get(key)
        if not is_in_run:
            if known is not None:
                for (_, seen), (count, _) in zip(self._windows, known, strict=True):
                    seen[count] += 1
                del self._runs[key]
            return
        if known is None:
            self._runs[key] = [[1, ended] for _ in self._windows]
            return
        for (window, seen), run in zip(self._windows, known, strict=True):
            if ended - run[1] > window:
                seen[run[0]] += 1
                run[0] = 0
            run[0] += 1
            run[1] = ended

    def count_line(self, line: bytes, calls: Sequence[LineCall | None]) -> None:
        """Count the calls of a line segment."""
        for call in calls:
            self.count(line, 0 if call is None else call.ended, is_in_run=call is not None)

    def end(self) -> dict[float, Counter[int]]:
        """End all runs; return the counts."""
        for key in list(self._runs):
            self.count(key, 0, is_in_run=False)
        return self.seen

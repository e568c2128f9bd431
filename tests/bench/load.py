"""Calls as a dialer makes them, to measure with: deterministic contract records.

What real days have and a simple loop hasn't, because it decides the cost: balances that fall call
by call and hardly repeat, times that advance, thousands of batches of 50 to 5,000 numbers side by
side, several of an account at once, line errors both scattered and in bursts that many accounts
share (about 8 % `W`), a call in a hundred published again later, fields that the contract doesn't
know.

Two mixes. `campaigns`: some hundred accounts are busy at a time, as on real days. `uniform`: all
accounts in turn, the worst for every cache.
"""

import random
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Literal

Mix = Literal["campaigns", "uniform"]
MIXES: tuple[Mix, ...] = ("campaigns", "uniform")

_CHINA = timezone(timedelta(hours=8))
_BEGIN = datetime(2026, 11, 2, 9, 0, tzinfo=_CHINA)
_LINES = 200
_BUSY_ACCOUNTS = 400
_BATCH_SIZES = (50, 100, 100, 200, 500, 1000, 5000)
_CALLS_PER_TICK = 37
_TICK = timedelta(milliseconds=250)
_REPEATED = 0.01
_REPEATED_WITHIN = 5_000
# How often an ordinary number ends so; the rest is nobody's.
_RESULTS, _WEIGHTS = "FWEDCBA", (0.62, 0.10, 0.14, 0.07, 0.04, 0.02, 0.01)

KeyAndValue = tuple[bytes, bytes]


def account_records(accounts: int, seed: int = 1) -> Iterator[KeyAndValue]:
    """Yield a record for each account: one in five has an openid, one in twenty wants classes."""
    choose = random.Random(seed)
    for number in range(accounts):
        name = _account(number)
        openid = f'"oBench{number:022d}"' if number % 5 == 0 else "null"
        classes = '["A","B"]' if number % 20 == 0 else "[]"
        yield (
            name.encode(),
            (
                f'{{"account_id":"{name}","name":"客户{number}","openid":{openid},"phone":null,'
                f'"intent_classes":{classes},"balance_threshold":"{choose.randrange(10, 100)}.00",'
                f'"expires_at":"2099-0{number % 9 + 1}-01T00:00:00+08:00","channels":'
                '{"line_error_run":["inbox"],"batch_completed":["inbox"]}}'
            ).encode(),
        )


def call_records(count: int, accounts: int, mix: Mix, seed: int = 1) -> Iterator[KeyAndValue]:
    """Yield so many calls in the order in which they ended."""
    return _Dialer(accounts, mix, seed).calls(count)


def _account(number: int) -> str:
    return f"u{number:07d}"


class _Batch:
    """Numbers that are called one after the other; some batches are bad: nobody answers."""

    __slots__ = ("is_bad", "next", "size", "submitted")

    def __init__(self, submitted: str, size: int, is_bad: bool) -> None:
        self.submitted, self.size, self.is_bad = submitted, size, is_bad
        self.next = 0


class _Campaign:
    """An account at work: batches side by side, until it has called enough."""

    __slots__ = ("account", "batches", "left")

    def __init__(self, account: int, batches: list[_Batch], left: int) -> None:
        self.account, self.batches, self.left = account, batches, left


class _Dialer:
    def __init__(self, accounts: int, mix: Mix, seed: int) -> None:
        self._seed, self._random = seed, random.Random(seed)
        self._is_uniform = mix == "uniform"
        order = list(range(accounts))
        self._random.shuffle(order)
        self._waiting = deque(order)
        self._batches = 0
        self._balances = [self._random.randrange(100_00, 5000_00) for _ in range(accounts)]
        self._bad_lines = {self._random.randrange(_LINES): 900 for _ in range(2)}
        busy = accounts if self._is_uniform else min(accounts, _BUSY_ACCOUNTS)
        self._campaigns = [self._begin() for _ in range(busy)]

    def calls(self, count: int) -> Iterator[KeyAndValue]:
        chance, pick = self._random.random, self._random.randrange
        recent: deque[KeyAndValue] = deque(maxlen=_REPEATED_WITHIN)
        now, ended = _BEGIN, _BEGIN.isoformat()
        for number in range(count):
            if number % _CALLS_PER_TICK == 0:
                now += _TICK
                ended = now.isoformat(timespec="seconds")
            if recent and chance() < _REPEATED:
                yield recent[pick(len(recent))]
                continue
            place = pick(len(self._campaigns))
            campaign = self._campaigns[place]
            batch = campaign.batches[pick(len(campaign.batches))]
            call = self._call(number, campaign.account, batch, ended)
            recent.append(call)
            yield call
            self._go_on(place, campaign, batch)

    def _call(self, number: int, account: int, batch: _Batch, ended: str) -> KeyAndValue:
        pick = self._random.randrange
        line = pick(_LINES)
        result = self._result(line, batch)
        balance = self._balances[account] - pick(5, 40)
        if balance < 0:
            balance += pick(500_00, 3000_00)  # somebody paid
        self._balances[account] = balance
        name = _account(account)
        error = f'"error":"SIP {self._random.choice((403, 408, 480, 486, 503))}",'
        return name.encode(), (
            f'{{"call_id":"c{self._seed}-{number:010d}","account_id":"{name}",'
            f'"line_id":"line-{line:03d}","result":"{result}",'
            f'"phone":"1{pick(30, 100)}{pick(10**8):08d}","submitted_at":"{batch.submitted}",'
            f'"batch_size":{batch.size},"batch_index":{batch.next},"ended_at":"{ended}",'
            f'"balance":"{balance // 100}.{balance % 100:02d}",'
            f'"duration_s":{0 if result in "FW" else pick(1, 180)},'
            f"{error if result == 'W' else ''}"
            f'"task":"t-{account % 97}","robot":"v{account % 7}","recording":null}}'
        ).encode()

    def _result(self, line: int, batch: _Batch) -> str:
        left = self._bad_lines.get(line)
        if left is not None:
            self._bad_lines[line] = left - 1
            if left == 1:
                del self._bad_lines[line]
                self._bad_lines[self._random.randrange(_LINES)] = self._random.randrange(200, 1500)
            return "W" if self._random.random() < 0.97 else "F"
        if batch.is_bad:
            return "F"
        return self._random.choices(_RESULTS, _WEIGHTS)[0]

    def _go_on(self, place: int, campaign: _Campaign, batch: _Batch) -> None:
        batch.next += 1
        if batch.next < batch.size:
            return
        campaign.batches.remove(batch)
        if campaign.batches:
            return
        campaign.left -= batch.size
        if campaign.left <= 0 and not self._is_uniform:
            self._campaigns[place] = self._begin()
        else:
            campaign.batches.append(self._new_batch())

    def _begin(self) -> _Campaign:
        account = self._waiting.popleft()
        self._waiting.append(account)
        number = self._random.choice((1, 1, 1, 2, 3))
        batches = [self._new_batch() for _ in range(number)]
        return _Campaign(account, batches, self._random.randrange(200, 3000))

    def _new_batch(self) -> _Batch:
        self._batches += 1
        submitted = _BEGIN - timedelta(days=1) + timedelta(seconds=self._batches)
        size = self._random.choice(_BATCH_SIZES)
        return _Batch(submitted.isoformat(), size, self._random.random() < 0.3)

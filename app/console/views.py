"""What the console shows, as JSON: one function for each path of the contract.

Openids and phones are masked, except where one notification or one letter is shown. HTML isn't
known here.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from app.console import metrics
from app.console.index import MINUTE, Place, written_at
from app.console.indexer import Indexer
from app.console.lookups import PATIENCE_SECONDS, KafkaLookups
from app.console.messages import as_seen
from app.console.queries import (
    CommandRow,
    Delivered,
    Filters,
    LetterRow,
    Listed,
    Queries,
    cursor_of,
    listed_cursor,
)
from app.console.words import translator
from app.errors import KafkaAwayError
from app.operations.explain import describe
from app.operations.letter_writer import Verb
from app.operations.letters import Letter, read_letter, text_of
from app.operations.letters import describe as describe_letter
from app.operations.providers import holds_in_force, is_subscribed, rest_of
from app.operations.redrive import Order, carry_out
from app.operations.state import describe_account, describe_batch, describe_line
from app.settings import Settings
from streams.engine.state import State
from streams.records import Delivery
from streams.times import DAY, HOUR, format_instant, parse_instant
from streams.topics import partition_of
from tables import batches, line_accounts, recharges, runs
from tables.batches import BatchView, Clock, Page
from tables.clocks import clock_of
from tables.explained import Language
from tables.explanations import Outside
from tables.lines import LineRun
from tables.remembered import Remembered, line_of, remembered_of
from tables.state_tables import (
    BATCHES,
    CLOCKS,
    CUSTOMERS,
    LINE_ACCOUNTS,
    LINES,
    MORE_RECHARGES,
    PAGES,
    RECHARGES,
    TALLIES,
)

T = TypeVar("T")

LAST_DELIVERIES = 50
_EXPLAINED_BY = 200
_INPUTS = ("calls", "recharges", "accounts", "announcements", "ticks")


class Views:
    """Answers all requests for data from the index, Kafka and Redis."""

    def __init__(self, settings: Settings, indexer: Indexer, kafka: KafkaLookups) -> None:
        self._settings = settings
        self._indexer = indexer
        self._kafka = kafka
        self._queries = Queries(settings)
        self._threads = ThreadPoolExecutor(4, "query")
        self._handling = asyncio.Lock()

    def close(self) -> None:
        """Finish the queries under way."""
        self._threads.shutdown()

    async def overview(self) -> dict[str, Any]:
        """Return the state of the whole installation."""
        now = _now()
        hour, day, rates_hour, rates_day, lags, letters = await asyncio.gather(
            self._ask(self._queries.counts, now - HOUR),
            self._ask(self._queries.counts, now - DAY),
            self._ask(self._queries.rates, now - HOUR, MINUTE),
            self._ask(self._queries.rates, now - DAY, 30 * MINUTE),
            self._ask(self._queries.lags, now - DAY),
            self._ask(self._queries.letter_counts),
        )
        open_batches = await self._ask(self._queries.open_batch_count)
        waiting = await self._ask(self._queries.letters_waiting)
        lag, lag_at = await self._kafka.lag()
        holds = await holds_in_force(self._settings)
        return {
            "group": self._settings.group,
            "at": self._time(now),
            "timezone": self._settings.timezone,
            "workers": None if lag is None else lag["members"],
            "lag": None if lag is None else lag["partitions"],
            "lag_at": None if lag_at is None else self._time(lag_at),
            "holds": None if holds is None else [hold._asdict() for hold in holds],
            "counts": {"hour": _counts(hour), "day": _counts(day)},
            "rates": {
                "hour": self._rates(rates_hour, now - HOUR, now, MINUTE),
                "day": self._rates(rates_day, now - DAY, now, 30 * MINUTE),
            },
            "lags": {
                "hour": self._lags(lags, now - HOUR, now, MINUTE),
                "day": self._lags(lags, now - DAY, now, 30 * MINUTE),
            },
            "dead_letters": {
                "waiting": waiting,
                "by": [{"topic": topic, "field": field, "count": n} for topic, field, n in letters],
            },
            "open_batches": open_batches,
            "index": {"ready": self._indexer.why_not_ready is None,
                      "reason": self._indexer.why_not_ready},
        }  # fmt: skip

    async def deliveries(
        self, wanted: Filters, *, limit: int, before: Place | None = None
    ) -> dict[str, Any]:
        """Return one page of the deliveries."""
        found = await self._ask(
            partial(self._queries.deliveries, wanted, now=_now(), limit=limit + 1, before=before)
        )
        return {
            "items": [self._delivery(one) for one in found[:limit]],
            "next": cursor_of(found[limit - 1].place) if len(found) > limit else None,
        }

    async def notification(
        self, notification_id: str, language: Language = "en"
    ) -> dict[str, Any] | None:
        """Return one notification, from its cause to the receipt; None: there is none."""
        command, deliveries, inbox = await asyncio.gather(
            self._ask(self._queries.command, notification_id),
            self._ask(self._queries.deliveries_of, notification_id),
            self._ask(self._queries.inbox, notification_id),
        )
        if command is None and inbox is None and not deliveries:
            return None
        topics = self._settings.topics
        record = await self._record(topics.notifications, command)
        in_inbox = await self._kafka.record(topics.inbox_messages, *inbox) if inbox else None
        cause = await self._cause(record)
        name = None
        if command is not None and command.account_id is not None and command.channel == "wechat":
            _, known = await self._remember(command.account_id)
            name = known.customer.name if known.customer else None
        return {
            "command": _json(record.value) if record else None,
            "cause_record": cause[0] if cause else None,
            "deliveries": [self._delivery(one) for one in deliveries],
            "inbox": _json(in_inbox.value) if in_inbox else None,
            "message": as_seen(record.key, record.value, name, self._settings) if record else None,
            "timeline": self._timeline(record, cause, command, deliveries, in_inbox, language),
        }

    async def account(self, account_id: str, language: Language = "en") -> dict[str, Any] | None:
        """Return one account; None: nothing is known of it."""
        partition, remembered = await self._remember(account_id)
        found = await self._ask(
            partial(
                self._queries.deliveries, Filters(account=account_id), now=_now(),
                limit=_EXPLAINED_BY,
            )
        )  # fmt: skip
        if remembered.is_nothing and not found:
            return None
        openid = remembered.customer.openid if remembered.customer else None
        wechat, holds, rest = await asyncio.gather(
            is_subscribed(self._settings, openid),
            holds_in_force(self._settings),
            rest_of(self._settings, openid),
        )
        told = [_as_record(one, self._time(one.place[0])) for one in found]
        outside = Outside(told, wechat["subscribed"] if wechat else None, holds, rest)
        return {
            "state": describe_account(self._settings, account_id, partition, remembered, wechat),
            "explain": describe(self._settings, remembered, outside, language),
            "deliveries": [self._delivery(one) for one in found[:LAST_DELIVERIES]],
        }

    async def line(self, line_id: str) -> dict[str, Any] | None:
        """Return one line; None: nothing is remembered of it."""
        key = line_id.encode()
        partition = partition_of(key, self._partitions())
        line = await self._ask(self._remembered_line, partition, key)
        if line is None:
            return None
        return {"state": describe_line(self._settings, line_id, partition, line)}

    async def batches(
        self, *, only_open: bool, limit: int, after: tuple[int, int, bytes] | None
    ) -> dict[str, Any]:
        """Return one page of batches, oldest first."""
        return await self._ask(self._batches, only_open, limit, after)

    def _batches(
        self, only_open: bool, limit: int, after: tuple[int, int, bytes] | None
    ) -> dict[str, Any]:
        found = self._queries.batches(limit=limit + 1, after=after, only_open=only_open)
        retention = self._settings.rules.batch_retention
        clocks = _Clocks(self._queries)
        items = []
        for one in found[:limit]:
            is_latest = one.key[:1] == TALLIES.prefix
            key = one.key[1:] if is_latest else one.key[1:-8]
            batch = TALLIES.decode(one.value).batch if is_latest else BATCHES.decode(one.value)
            if batch is None or batches.is_forgotten(batch, clocks[one.partition], retention):
                continue

            def page_of(page: int, one: Listed = one, key: bytes = key) -> Page | None:
                full = PAGES.prefix + batches.page_key(key, one.number, page)
                rows = self._queries.values(one.partition, [full])
                return PAGES.decode(rows[0][1]) if rows else None

            view = BatchView(one.number, batch, batches.missing(batch, page_of))
            items.append({"account_id": key.decode(), **describe_batch(view, self._settings.zone)})
        return {"items": items, "next": _next(found, limit)}

    async def runs(self, *, limit: int, before: tuple[int, int, bytes] | None) -> dict[str, Any]:
        """Return one page of accounts and lines with an unfinished run, longest first."""
        return await self._ask(self._runs, limit, before)

    def _runs(self, limit: int, before: tuple[int, int, bytes] | None) -> dict[str, Any]:
        found = self._queries.runs(limit=limit + 1, before=before)
        retention = self._settings.rules.run_retention
        clocks = _Clocks(self._queries)
        items = []
        for one in found[:limit]:
            key, is_line = one.key[1:], one.key[:1] == LINES.prefix
            line = LINES.decode(one.value) if is_line else LineRun(TALLIES.decode(one.value).run)
            if runs.is_forgotten(line.run, clocks[one.partition].tick, retention):
                continue
            name = key.decode()
            said = describe_line(self._settings, name, one.partition, line)["run"]
            if is_line:
                state = State(one.partition)
                self._restore_pages(state, key, line)
                accounts = line_accounts.all_of(state, key, line.pages, line.accounts)
                items.append({"line_id": name, **said, "accounts": len(accounts)})
            else:
                items.append({"account_id": name, **said})
        return {"items": items, "next": _next(found, limit)}

    async def letters(
        self,
        *,
        limit: int,
        before: Place | None,
        topic: str | None,
        reason: str | None,
        since: int | None,
        until: int | None,
        handled_too: bool,
    ) -> dict[str, Any]:
        """Return one page of dead letters, newest first."""
        found = await self._ask(
            partial(
                self._queries.letters,
                limit=limit + 1,
                before=before,
                topic=topic,
                reason=reason,
                since=since,
                until=until,
                handled_too=handled_too,
            )
        )
        last = found[limit - 1] if len(found) > limit else None
        return {
            "items": [self._letter(one) for one in found[:limit]],
            "next": cursor_of((last.at, last.partition, last.offset)) if last else None,
        }

    async def letter(self, name: str) -> dict[str, Any]:
        """Return one dead letter with its bytes. Raises CommandError where there is none."""
        found = await self._read_letter(name)
        headers = [{"key": key, "value": text_of(value or b"")} for key, value in found.headers]
        said = describe_letter(self._settings, found)
        return {**said, "value": text_of(found.value), "headers": headers}

    async def letter_bytes(self, name: str) -> bytes:
        """Return a dead letter's value, byte for byte. Raises CommandError where there is none."""
        return (await self._read_letter(name)).value or b""

    async def handle(
        self, verb: Verb, letters: list[str], *, why: str | None, execute: bool
    ) -> dict[str, Any]:
        """Redrive or discard dead letters, or only plan it; see `app/operations/redrive.py`.

        One order at a time: of two at once the later would end the earlier.
        """
        order = Order(verb=verb, letters=letters, why=why, execute=execute)
        async with self._handling:
            done = await carry_out(await self._kafka.installation(), order)
        if execute:
            handled = "redriven" if verb == "redrive" else "discarded"
            places = [row["letter"].split(":") for row in done["letters"] if row["action"] == verb]
            await self._indexer.mark([(int(p), int(o)) for p, o in places], handled)
        return done

    @staticmethod
    def now() -> int:
        """Return the present instant."""
        return _now()

    async def _read_letter(self, name: str) -> Letter:
        installation = await self._kafka.installation()
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await read_letter(installation, name)

    def _letter(self, one: LetterRow) -> dict[str, Any]:
        return {
            "letter": f"{one.partition}:{one.offset}",
            "at": self._time(one.at),
            "topic": one.topic,
            "partition": one.source_partition,
            "offset": one.source_offset,
            "reason": one.reason,
            "key": msgspec.json.decode(one.key),
            "bytes": one.size,
            "attempts": one.attempts,
            "handled": one.handled,
        }

    async def search(self, text: str) -> list[tuple[str, str, str]]:
        """Return what a text may be the id of: (kind, id, description) of each."""
        found: list[tuple[str, str, str]] = []
        command, deliveries, known, line, of_call, prefixed = await asyncio.gather(
            self._ask(self._queries.command, text),
            self._ask(self._queries.deliveries_of, text),
            self._remember(text),
            self.line(text),
            self._ask(self._queries.commands_of_call, text),
            self._ask(
                partial(self._queries.deliveries, Filters(q=text), now=_now(), limit=20)
            ),
        )  # fmt: skip
        if command is not None or deliveries:
            return [("notification", text, "")]
        of_account = await self._ask(
            partial(self._queries.deliveries, Filters(account=text), now=_now(), limit=1)
        )
        customer = known[1].customer
        if of_account or not known[1].is_nothing:
            found.append(("account", text, customer.name if customer else ""))
        if line is not None:
            found.append(("line", text, ""))
        found += [
            ("notification", one.notification_id, f"{one.scenario} · {one.channel}")
            for one in of_call
        ]
        if not found:
            starts = {one.notification_id: one for one in prefixed}
            found += [
                ("notification", one.notification_id, f"{one.scenario} · {one.channel}")
                for one in starts.values()
                if one.notification_id.startswith(text)
            ]
        return found

    async def _remember(self, account_id: str) -> tuple[int, Remembered]:
        key = account_id.encode()
        partition = partition_of(key, self._partitions())
        return partition, await self._ask(self._remembered, partition, key)

    def _partitions(self) -> int:
        topics = self._indexer.topics
        if topics is None:
            raise KafkaAwayError(f"the index is not there yet: {self._indexer.why_not_ready}")
        return topics.partitions

    def _remembered(self, partition: int, key: bytes) -> Remembered:
        state, queries = State(partition), self._queries
        single = [table.prefix + key for table in (CUSTOMERS, TALLIES, RECHARGES)]
        state.restore(queries.values(partition, [*single, CLOCKS.prefix]))
        for table in (BATCHES, PAGES):
            state.restore(queries.values_numbered(partition, table.prefix + key))
        first = state.peek(RECHARGES, key)
        if first is not None and recharges.is_full(first):
            more = [MORE_RECHARGES.prefix + page for page in recharges.page_keys(key)]
            state.restore(queries.values(partition, more))
        rules = self._settings.rules
        return remembered_of(
            state, key, batch_retention=rules.batch_retention, run_retention=rules.run_retention
        )

    def _remembered_line(self, partition: int, key: bytes) -> LineRun | None:
        state = State(partition)
        state.restore(self._queries.values(partition, [LINES.prefix + key, CLOCKS.prefix]))
        line = state.peek(LINES, key)
        if line is not None:
            self._restore_pages(state, key, line)
        return line_of(state, key, run_retention=self._settings.rules.run_retention)

    def _restore_pages(self, state: State, key: bytes, line: LineRun) -> None:
        """Restore a line's pages of accounts, if it has any."""
        if line.pages:
            prefix = LINE_ACCOUNTS.prefix + key
            state.restore(self._queries.values_numbered(state.partition, prefix))

    async def _record(self, topic: str, command: CommandRow | None) -> Any:
        if command is None:
            return None
        return await self._kafka.record(topic, command.partition, command.offset)

    async def _cause(self, record: Any) -> tuple[dict[str, Any], Any] | None:
        """Return the record that caused a command, as JSON and as a record; None: it is gone.

        Other systems may write commands too, so only topics that the installation reads are
        looked up.
        """
        headers = dict(record.headers) if record else {}
        said = (headers.get("dialwatch.cause") or b"").decode(errors="replace")
        topic, *where = said.rsplit("/", 2)
        topics = self._settings.topics
        if topic not in {getattr(topics, name) for name in _INPUTS} or len(where) != 2:
            return None
        if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in where):
            return None
        partition, offset = map(int, where)
        found = await self._kafka.record(topic, partition, offset)
        if found is None:
            return None
        value = (found.value or b"").decode(errors="replace")
        return {"topic": topic, "partition": partition, "offset": offset, "value": value}, found

    def _timeline(
        self,
        record: Any,
        cause: tuple[dict[str, Any], Any] | None,
        command: CommandRow | None,
        deliveries: list[Delivered],
        in_inbox: Any,
        language: Language,
    ) -> list[dict[str, str]]:
        t = translator(language)
        steps: list[tuple[int, int, str]] = []
        if cause is not None:
            steps.append((*self._happened(cause, t),))
        if record is not None and command is not None:
            said = f"{t('Noticed')}: {t(command.scenario)} → {t(command.channel)}"
            steps.append((written_at(record), 1, said))
        if in_inbox is not None:
            steps.append((written_at(in_inbox), 2, t("Put into the inbox of the website")))
        for one in deliveries:
            parts = [f"{t(one.channel)}: {t(one.status)}"]
            parts += [one.error] if one.error else []
            parts += [f"{t('code')} {one.error_code}"] if one.error_code is not None else []
            parts += [f"msgid {one.provider_id}"] if one.provider_id else []
            if one.attempts > 1:
                parts.append(f"{t('attempts')}: {one.attempts}")
            steps.append((one.place[0], 3, " · ".join(parts)))
        # In the order of time; but the cause comes first, whenever it was written.
        steps.sort(key=lambda step: (step[1] > 0, step[0], step[1]))
        return [{"at": self._time(at), "what": what} for at, _, what in steps]

    def _happened(
        self, cause: tuple[dict[str, Any], Any], t: Callable[[str], str]
    ) -> tuple[int, int, str]:
        coordinates, record = cause
        said = _json(record.value)
        said = said if isinstance(said, dict) else {}
        topics = self._settings.topics
        topic = coordinates["topic"]
        at, what = written_at(record), f"{topic}"
        if topic == topics.calls:
            at = _instant(said.get("ended_at"), at)
            result = said.get("result")
            what = (
                f"{t('Call')} {said.get('call_id')} {t('ended')}: {result} {t(f'result {result}')}"
            )
        elif topic == topics.recharges:
            at = _instant(said.get("completed_at"), at)
            what = f"{t('Recharge')} {said.get('recharge_id')}: ￥{said.get('amount')}"
        elif topic == topics.announcements:
            at = _instant(said.get("published_at"), at)
            what = f"{t('Announcement')} {said.get('announcement_id')}"
        elif topic == topics.ticks:
            at = _instant(said.get("at"), at)
            what = t("A tick passed the reminder time")
        elif topic == topics.accounts:
            what = t("The account's record changed")
        return at, 0, what

    def _delivery(self, one: Delivered) -> dict[str, Any]:
        return {
            "notification_id": one.notification_id,
            "account_id": one.account_id,
            "scenario": one.scenario,
            "channel": one.channel,
            "status": one.status,
            "error": one.error,
            "error_code": one.error_code,
            "attempts": one.attempts,
            "at": self._time(one.place[0]),
            "occurred_at": None if one.occurred is None else self._time(one.occurred),
            "title": one.title,
        }

    def _rates(
        self, found: dict[int, dict[str, int]], since: int, until: int, step: int
    ) -> list[dict[str, Any]]:
        first = since // step * step
        return [
            {"at": self._time(at), "statuses": found.get(at, {})}
            for at in range(first, until + 1, step)
        ]

    def _lags(
        self, found: list[tuple[int, str, int, float | None]], since: int, until: int, step: int
    ) -> list[dict[str, Any]]:
        """Return the highest lag in each step, over all topics; null where there is no sample."""
        sampled: dict[int, int] = {}
        for at, _, lag, _ in found:
            sampled[at] = sampled.get(at, 0) + lag
        worst: dict[int, int] = {}
        for at, lag in sampled.items():
            start = at // step * step
            worst[start] = max(worst.get(start, 0), lag)
        first = since // step * step
        return [
            {"at": self._time(at), "lag": worst.get(at)} for at in range(first, until + 1, step)
        ]

    def _time(self, instant: int) -> str:
        return format_instant(instant, self._settings.zone)

    async def _ask(self, question: Callable[..., T], *given: Any) -> T:
        begun = time.perf_counter()
        answer = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._queries.answer, partial(question, *given)
        )
        name = getattr(getattr(question, "func", question), "__name__", "other")
        metrics.QUERIES.labels(name).observe(time.perf_counter() - begun)
        return answer


class _Clocks(dict[int, Clock]):
    """Partition → how far its ticks have come, looked up when it is first needed."""

    def __init__(self, queries: Queries) -> None:
        super().__init__()
        self._queries = queries

    def __missing__(self, partition: int) -> Clock:
        state = State(partition)
        state.restore(self._queries.values(partition, [CLOCKS.prefix]))
        self[partition] = clock_of(state)
        return self[partition]


def _now() -> int:
    return time.time_ns() // 1000


def _counts(rows: list[tuple[str, str, str, int]]) -> list[dict[str, Any]]:
    names = ("scenario", "channel", "status", "count")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _as_record(one: Delivered, at: str) -> Delivery:
    return Delivery(
        notification_id=one.notification_id,
        channel=one.channel,  # type: ignore[arg-type]  # whatever stands in the topic
        account_id=one.account_id,
        scenario=one.scenario,
        status=one.status,  # type: ignore[arg-type]
        attempts=one.attempts,
        at=at,
        provider_id=one.provider_id,
        error_code=one.error_code,
        error=one.error,
    )


def _next(found: list[Listed], limit: int) -> str | None:
    return listed_cursor(found[limit - 1]) if len(found) > limit else None


def _json(value: bytes | None) -> Any:
    """Return the parsed JSON of a value, where half a surrogate pair is no error; where it isn't
    JSON, its text."""
    try:
        return json.loads((value or b"null").decode(), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        return (value or b"").decode(errors="replace")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} can't be written as JSON")
    return number


def _instant(text: object, otherwise: int) -> int:
    try:
        return parse_instant(text) if isinstance(text, str) else otherwise
    except ValueError:
        return otherwise

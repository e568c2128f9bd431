"""Sending dead letters again, or putting them aside: each exactly once, even if interrupted.

A letter's record and its mark are written in one transaction. All commands of a group share one
transactional id: each begins by ending what another left open, and only then reads which letters
are handled. So a command that is killed has handled a letter wholly or not at all, and of two that
run at once only the later one goes on.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from app.errors import CommandError
from app.operations.installation import Installation
from app.operations.letter_writer import LetterWriter, Verb
from app.operations.letters import (
    MOST_ROWS,
    Letter,
    LetterFilter,
    describe,
    letters_between,
    parse_place,
    place_of,
    read_letter,
    read_marks,
)
from app.operations.not_redriven import Candidate, Refusal, refusals_of
from app.operations.transactional_producer import FENCED
from streams.decoding import InvalidRecordError, decode_notification
from streams.engine.types import TP
from streams.kafka.log_scan import BEGINNING, END

_FIRST_PAGE = 1_000
_CHUNK_LETTERS = 200
_CHUNK_BYTES = 8 << 20


@dataclass
class Order:
    """What an operator orders to be done with letters."""

    verb: Verb
    letters: Sequence[str] = ()
    """The names of letters; empty: all that match the filters."""
    wanted: LetterFilter = field(default_factory=lambda: LetterFilter(limit=MOST_ROWS))
    why: str | None = None
    force: bool = False
    execute: bool = False


async def carry_out(installation: Installation, order: Order) -> dict[str, Any]:
    """Plan an order; with `execute` carry it out. Return what the commands and the console show:

        {"verb", "executed", "letters": [{"letter", …as `dlq list`, "action", "why"}],
         "counts": {"redrive" or "discard", "refused", "handled"}, "has_more"}

    `action`: what is (to be) done: the verb, `refused` (`why` has the reason) or `handled` (it was
    handled before). The filters' limit counts what is (to be) done alone; `has_more`: there is more
    than that. Of refused letters the first 100,000 are listed, and all counted. Raises CommandError
    where a named letter doesn't exist, or another command began meanwhile; letters handled until
    then stay handled.
    """
    for name in order.letters:
        place_of(installation, name)
    if not order.execute:
        return await _carry_out(installation, order, None)
    await _create_marks(installation)
    writer = LetterWriter(installation)
    try:
        await writer.open()
        return await _carry_out(installation, order, writer)
    except FENCED:
        raise CommandError(
            "another redrive or discard began meanwhile and goes on alone: look at dialwatch dlq "
            "list, then run this again"
        ) from None
    finally:
        await writer.close()


@dataclass
class _Plan:
    """What is to be done with which letters."""

    rows: list[dict[str, Any]]
    counts: dict[str, int]
    todo: dict[TP, list[int]] = field(default_factory=dict)
    has_more: bool = False


async def _carry_out(
    installation: Installation, order: Order, writer: LetterWriter | None
) -> dict[str, Any]:
    """1. Find the letters and decide on each, 2. handle them in chunks, each a transaction."""
    plan = await _plan(installation, order)
    if writer is not None:
        too_long = await _execute(installation, order, plan.todo, writer)
        await writer.forget_marks()
        for row in plan.rows:
            if row["letter"] in too_long:
                plan.counts[row["action"]] -= 1
                row["action"], row["why"] = "refused", too_long[row["letter"]]
                plan.counts["refused"] += 1
    return {
        "verb": order.verb,
        "executed": order.execute,
        "letters": plan.rows,
        "counts": plan.counts,
        "has_more": plan.has_more,
    }


async def _plan(installation: Installation, order: Order) -> _Plan:
    plan = _Plan([], dict.fromkeys((order.verb, "refused", "handled"), 0))
    async with aclosing(_pages(installation, order)) as pages:
        async for page in pages:
            refusals = {}
            if order.verb == "redrive":
                refusals = await refusals_of(installation, page, force=order.force)
            for one in page:
                if not _add(plan, order, one, refusals.get(one.letter.name)):
                    plan.has_more = True
                    return plan
    return plan


def _add(plan: _Plan, order: Order, one: Candidate, refusal: Refusal | None) -> bool:
    """Add a letter to the plan. Return False where the limit leaves no room for it."""
    action: str = order.verb
    why = None
    if one.letter.handled is not None:
        action, why = "handled", one.letter.handled
    elif refusal is not None:
        action, why = "refused", refusal.why
    elif not order.letters and plan.counts[action] == order.wanted.limit:
        return False
    else:
        plan.todo.setdefault(one.letter.tp, []).append(one.letter.offset)
    plan.counts[action] += 1
    if action == order.verb or plan.counts[action] <= MOST_ROWS:
        plan.rows.append({**one.row, "action": action, "why": why})
    return True


async def _pages(installation: Installation, order: Order) -> AsyncGenerator[list[Candidate]]:
    """Yield the letters of an order, in the order in which they are handled. One page of them at a
    time is in memory, and each page is compared to whole topics: so pages grow."""
    prefix, page = installation.topics.prefix, list[Candidate]()
    marks = await read_marks(installation)
    if order.letters:
        wanted = replace(order.wanted, with_handled=True)
        # A letter may be named twice, as 0:1 and 00:1.
        for name in {parse_place(name): name for name in order.letters}.values():
            letter = await read_letter(installation, name, marks)
            if wanted.has(letter, prefix):
                page.append(_candidate(installation, letter))
        yield sorted(page, key=lambda one: (one.letter.tp, one.letter.offset))
        return
    tps, logs = installation.partitions(installation.topics.dead_letters), installation.logs
    begins, ends = await logs.offsets(tps, BEGINNING), await logs.offsets(tps, END)
    size = max(order.wanted.limit, _FIRST_PAGE)
    for tp in tps:
        async for letter in letters_between(installation, tp, begins[tp], ends[tp], marks):
            if order.wanted.has(letter, prefix):
                page.append(_candidate(installation, letter))
                if len(page) >= size:
                    yield page
                    page, size = [], min(size * 4, MOST_ROWS)
    yield page


def _candidate(installation: Installation, letter: Letter) -> Candidate:
    command = None
    if letter.topic == installation.topics.notifications:
        with suppress(InvalidRecordError):  # the letter isn't a valid command
            command = decode_notification(letter.key, letter.value).notification_id
    return Candidate(replace(letter, value=None), describe(installation.settings, letter), command)


async def _execute(
    installation: Installation, order: Order, todo: dict[TP, list[int]], writer: LetterWriter
) -> dict[str, str]:
    """Handle letters in chunks, each a transaction; return letter → why it wasn't handled."""
    refused: dict[str, str] = {}
    for tp, offsets in sorted(todo.items()):
        left = set(offsets)
        chunk: list[Letter] = []
        size = 0
        async for letter in letters_between(installation, tp, min(left), max(left) + 1, {}):
            if letter.offset not in left:
                continue
            chunk.append(letter)
            size += len(letter.value or b"")
            if len(chunk) >= _CHUNK_LETTERS or size >= _CHUNK_BYTES:
                refused |= await writer.handle(order.verb, order.why, chunk)
                chunk, size = [], 0
        if chunk:
            refused |= await writer.handle(order.verb, order.why, chunk)
    return refused


async def _create_marks(installation: Installation) -> None:
    """Create the topic of marks in an installation that doesn't have it yet."""
    topics, counts = installation.topics, installation.counts
    missing = [
        topic
        for topic in topics.internal()
        if topic.name == topics.handled_letters and topic.name not in counts
    ]
    await installation.admin.create(missing, installation.settings.replication_factor)
    counts.update({topic.name: topic.partitions for topic in missing})

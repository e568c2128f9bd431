"""`dialwatch dlq`: list, show, send again and put aside dead letters."""

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import (
    MOST_ROWS,
    LimitOption,
    MostOption,
    OutputOption,
    RevealOption,
    SinceOption,
    UntilOption,
    ask,
    checked_id,
    has_range,
)
from app.commands.output import chosen, cut, print_rows
from app.commands.usage import Program
from app.errors import SettingsError, all_of
from app.ranges import range_of
from app.settings import load_settings
from app.terminal import printable

if TYPE_CHECKING:
    from app.operations.letters import LetterFilter
    from app.operations.redrive import Order

dlq = Program(help="Dead letters: list, show, send again, put aside.")

COLUMNS = (
    "letter",
    "at",
    "topic",
    "partition",
    "offset",
    "reason",
    "key",
    "bytes",
    "attempts",
    "handled",
)
_FEW = ("letter", "at", "topic", "reason", "key", "attempts", "handled")
_PLAN = ("letter", "action", "why", "topic", "key", "attempts", "reason")

TopicOption = Annotated[
    str | None, typer.Option(help="Only from this topic, by its real or its contract name.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Only with this in their reason.")]


def _are_letters(names: list[str] | None) -> list[str] | None:
    from app.operations.letters import parse_place  # noqa: PLC0415

    all_of(*(partial(parse_place, name) for name in names or ()))
    return names


def _is_letter(name: str) -> str:
    _are_letters([name])
    return name


LettersArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LETTER]...", callback=_are_letters, help="As list names them: 0:17."),
]
ExecuteOption = Annotated[
    bool, typer.Option("--execute", help="Do it. Without it the plan is shown, nothing done.")
]


def _is_said(why: str) -> str:
    if not checked_id("--why", why).strip():
        raise SettingsError(["--why: must say why"])
    return why


@dlq.command("list", check=has_range)
def list_(
    topic: TopicOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    all_: Annotated[bool, typer.Option("--all", help="Those that were handled too.")] = False,
    reveal: RevealOption = False,
    output: OutputOption = None,
) -> None:
    """List dead letters that nobody has dealt with yet, newest first."""
    from app.operations.letters import find_letters  # noqa: PLC0415

    # One more is looked for, so that it shows whether there are more.
    wanted = _wanted(topic, reason, since, until, limit + 1, with_handled=all_)
    rows = ask(lambda installation: find_letters(installation, wanted, reveal=reveal))
    print_rows(cut(rows, limit), COLUMNS, chosen(output), few=_FEW)


@dlq.command("show")
def show(
    letter: Annotated[str, typer.Argument(callback=_is_letter, help="As list names it: 0:17.")],
) -> None:
    """Write a letter's value to stdout, byte for byte, and its headers to stderr."""
    from app.operations.letters import read_letter  # noqa: PLC0415

    found = ask(lambda installation: read_letter(installation, letter))
    said = [("key", found.key), *found.headers] if found.key is not None else found.headers
    for name, value in said:
        print(
            f"{printable(name)}: {printable((value or b'').decode(errors='replace'))}",
            file=sys.stderr,
        )
    if found.value is None:
        print("the value is null", file=sys.stderr)
    sys.stdout.buffer.write(found.value or b"")


@dlq.command("redrive", check=has_range)
def redrive(
    letters: LettersArgument = None,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: MostOption = None,
    execute: ExecuteOption = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also what may be told twice, is outdated, or failed too often."
        ),
    ] = False,
    output: OutputOption = None,
) -> int:
    """Send letters to where they came from, each once: those named, or those of the filters,
    or, without either, all that nobody has dealt with yet.

    They go by partition and offset: --limit 10 takes the first ten that can be sent, where list
    shows the newest ten."""
    from app.operations.redrive import Order  # noqa: PLC0415

    wanted = _wanted(topic, reason, since, until, limit)
    order = Order("redrive", letters or (), wanted, force=force, execute=execute)
    return _carry_out(order, output)


@dlq.command("discard", check=has_range)
def discard(
    why: Annotated[
        str, typer.Option(callback=_is_said, help="Why they are put aside; kept with them.")
    ],
    letters: LettersArgument = None,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: MostOption = None,
    execute: ExecuteOption = False,
    output: OutputOption = None,
) -> int:
    """Put letters aside: they stay where they are, marked as dealt with.

    --limit 10 takes the first ten by partition and offset, where list shows the newest ten."""
    from app.operations.redrive import Order  # noqa: PLC0415

    wanted = _wanted(topic, reason, since, until, limit)
    return _carry_out(Order("discard", letters or (), wanted, why=why, execute=execute), output)


def _wanted(
    topic: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    *,
    with_handled: bool = False,
) -> "LetterFilter":
    from app.operations.letters import LetterFilter  # noqa: PLC0415

    first, last = range_of(load_settings().zone, since, until)
    rows = MOST_ROWS if limit is None else limit
    return LetterFilter(topic, reason, first, last, rows, with_handled)


def _carry_out(order: "Order", output: OutputOption) -> int:
    """Carry out an order, print each letter's action and the counts. Return 1 where a letter that
    was named is refused, else 0."""
    from app.operations.redrive import carry_out  # noqa: PLC0415
    from streams.engine import fault_points  # noqa: PLC0415

    fault_points.arm_as(os.environ)
    done: dict[str, Any] = ask(lambda installation: carry_out(installation, order))
    print_rows(done["letters"], _PLAN, chosen(output))
    counts = done["counts"]
    verb = {"redrive": "redriven", "discard": "discarded"}[order.verb]
    head = (
        f"{counts[order.verb]} {verb}" if order.execute else f"{counts[order.verb]} to {order.verb}"
    )
    said = f"{head}, {counts['refused']} refused, {counts['handled']} handled before"
    if done["has_more"]:
        said += "; there are more of them, for another run"
    if not order.execute:
        said += "; nothing was done: --execute does it"
    print(said, file=sys.stderr)
    return 1 if order.letters and counts["refused"] else 0

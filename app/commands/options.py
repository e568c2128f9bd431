"""Options that several commands share."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from app.commands.output import OutputFormat
from app.errors import SettingsError
from app.ranges import range_of
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.operations.installation import Installation

T = TypeVar("T")

MOST_ROWS = 100_000
"""The most rows that a command prints."""
_MOMENT_SECONDS = 2.0

OutputOption = Annotated[
    OutputFormat | None,
    typer.Option(
        "--output", "-o", help="table (usual on a terminal), json, jsonl (usual in a pipe) or csv."
    ),
]


def _is_limit(limit: int | None) -> int | None:
    """Check `--limit`. Raises SettingsError."""
    if limit is None or 1 <= limit <= MOST_ROWS:
        return limit
    raise SettingsError(
        [f"--limit: must be from 1 to {MOST_ROWS}; for more, dialwatch export writes files"]
    )


# A command with these has `has_range` as its check, or one that calls `range_of` too.
SinceOption = Annotated[
    str | None,
    typer.Option(help="From this time on: 2026-02-14T10:00:00+08:00, -2h, -7d, @-48h:-24h."),
]
UntilOption = Annotated[str | None, typer.Option(help="Before this time.")]
LimitOption = Annotated[int, typer.Option(callback=_is_limit, help="At most so many.")]
MostOption = Annotated[int | None, typer.Option(callback=_is_limit, help="At most so many.")]
RevealOption = Annotated[bool, typer.Option("--reveal", help="Openids and phones whole.")]


def has_range(
    settings: Settings, *, since: str | None = None, until: str | None = None, **_: object
) -> None:
    """Check `--since` and `--until`. Raises SettingsError."""
    range_of(settings.zone, since, until)


class Language(StrEnum):
    """The values of `--language`."""

    ZH = "zh"
    EN = "en"


def ask(question: Callable[["Installation"], Awaitable[T]]) -> T:
    """Connect to the settings' installation; call `question` with it and return its result."""
    from app.operations.installation import open_installation  # noqa: PLC0415

    settings = load_settings()

    async def asking() -> T:
        waiting = asyncio.create_task(_say_that_it_takes_long())
        try:
            async with open_installation(settings) as installation:
                return await question(installation)
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    return asyncio.run(asking())


async def _say_that_it_takes_long() -> None:
    """Show a spinner on a terminal while an answer takes longer than a moment."""
    await asyncio.sleep(_MOMENT_SECONDS)
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415

        with Console(stderr=True).status("reading Kafka"):
            await asyncio.Event().wait()


def checked_id(option: str, text: str) -> str:
    """Return the id that an option gives. Raises SettingsError where no id can be like that."""
    try:
        if text.encode():
            return text
    except UnicodeEncodeError:
        raise SettingsError([f"{option}: must be UTF-8 text"]) from None
    raise SettingsError([f"{option}: must not be empty"])


def id_of(option: str) -> Callable[[str | None], str | None]:
    """Return the callback that checks an option with an id."""
    return lambda text: None if text is None else checked_id(option, text)

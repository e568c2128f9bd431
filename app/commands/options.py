"""Options that several commands have, spelled once."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from app.commands.output import Output
from app.errors import SettingsError
from app.settings import Settings, load_settings
from streams.times import SECOND

if TYPE_CHECKING:
    from app.operations.installation import Installation

T = TypeVar("T")

_MOMENT_SECONDS = 2.0

OutputOption = Annotated[
    Output | None,
    typer.Option(
        "--output", "-o", help="table (usual on a terminal), json, jsonl (usual in a pipe) or csv."
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(help="From this time on: 2026-02-14T10:00:00+08:00, -2h, -7d, @-48h:-24h."),
]
UntilOption = Annotated[str | None, typer.Option(help="Before this time.")]
RevealOption = Annotated[bool, typer.Option("--reveal", help="Openids and phones whole.")]


class Language(StrEnum):
    """What `--language` takes."""

    ZH = "zh"
    EN = "en"


def ask(question: Callable[["Installation"], Awaitable[T]]) -> T:
    """Connect to the installation of the settings, and return what the question finds there."""
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
    """Move something on a terminal while an answer takes longer than a moment."""
    await asyncio.sleep(_MOMENT_SECONDS)
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415

        with Console(stderr=True).status("reading Kafka"):
            await asyncio.Event().wait()


def range_of(
    settings: Settings, since: str | None, until: str | None
) -> tuple[int | None, int | None]:
    """Return the instants of `--since` and `--until`. Raises SettingsError."""
    from app.operations.ranges import parse_range  # noqa: PLC0415

    return parse_range(since, until, zone=settings.zone, now=int(time.time() * SECOND))


def checked_id(option: str, text: str) -> str:
    """Return an id that something can have. Raises SettingsError."""
    try:
        if text.encode():
            return text
    except UnicodeEncodeError:
        raise SettingsError([f"{option}: must be UTF-8 text"]) from None
    raise SettingsError([f"{option}: must not be empty"])


def checked_limit(limit: int, most: int) -> int:
    """Return a number of rows that may be asked for. Raises SettingsError."""
    if not 1 <= limit <= most:
        raise SettingsError(
            [f"--limit: must be from 1 to {most}; for more, dialwatch export writes files"]
        )
    return limit

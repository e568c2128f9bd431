"""Wrong usage, said whole: a line for every flag that is wrong, as for every variable.

Typer ends at the first one. Only what can be judged by the command line alone is judged here.
"""

from collections.abc import Callable
from typing import Any

import typer
from typer import TyperException
from typer.core import TyperCommand
from typer.models import CommandFunctionType

from app.errors import SettingsError


class CliCommand(TyperCommand):
    """A command that names everything wrong in how it was called."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the flags. Raises SettingsError, with a line for each that is wrong."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except (TyperException, SettingsError) as first:
            raise SettingsError(self._wrong(ctx, given) or lines_of(first)) from None

    def _wrong(self, ctx: Any, given: list[str]) -> list[str]:
        wrong: list[str] = []
        while True:
            try:
                options, left, _ = self.make_parser(ctx).parse_args(list(given))
                break
            except TyperException as error:
                wrong += lines_of(error)
                unknown = getattr(error, "option_name", None)
                places = [at for at, one in enumerate(given) if one.split("=")[0] == unknown]
                if not places:
                    return wrong
                del given[places[0]]
        # What followed an unknown flag is no argument.
        may_be_its_value = bool(wrong)
        for param in self.get_params(ctx):
            try:
                _, left = param.handle_parse_result(ctx, options, left)
            except (TyperException, SettingsError) as error:
                wrong += lines_of(error)
        if left and not may_be_its_value:
            wrong.append(f"there is no argument {' '.join(left)!r} (--help shows what there is)")
        return wrong


class Program(typer.Typer):
    """A Typer whose commands are such."""

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """See Typer."""
        return super().command(name, cls=CliCommand, **options)


def lines_of(error: TyperException | SettingsError) -> list[str]:
    """Return what is said of wrong usage."""
    if isinstance(error, SettingsError):
        return list(error.lines)
    return [f"{error.format_message()} (--help shows what there is)"]

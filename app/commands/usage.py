"""Commands that report every wrong flag and variable, with a line each, where Typer stops at the
first one.

Each flag alone is checked by Typer and by the options' callbacks. What needs several flags, or the
settings, is checked by the command itself, and here too once something else is wrong.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import typer
from typer import TyperException
from typer.core import TyperCommand
from typer.models import CommandFunctionType

from app.errors import SettingsError
from app.settings import settings_and_mistakes

Check = Callable[..., Any]
"""Called with the settings and with the arguments that are right; raises SettingsError."""


class CliCommand(TyperCommand):
    """A Typer command that reports everything that is wrong with arguments and settings."""

    check: ClassVar[Check | None] = None
    needs_settings: ClassVar[bool] = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises SettingsError, with a line for each that is wrong."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except (TyperException, SettingsError) as first:
            raise self._with_others(ctx, self._wrong(ctx, given) or lines_of(first)) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises SettingsError as `parse_args` does."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise self._with_others(ctx, lines_of(error)) from None

    def _with_others(self, ctx: Any, lines: list[str]) -> SettingsError:
        """Return the error with these lines and those that they kept from being found."""
        if not self.needs_settings:
            return SettingsError(lines)
        settings, mistakes = settings_and_mistakes()
        lines += mistakes
        if self.check is not None:
            try:
                self.check(settings, **ctx.params)
            except SettingsError as error:
                lines += error.lines
        return SettingsError(list(dict.fromkeys(lines)))

    def _wrong(self, ctx: Any, given: list[str]) -> list[str]:
        wrong: list[str] = []
        told: set[str] = set()
        # What follows an unknown flag may be its value, and then is no argument.
        may_be_its_value = False
        while True:
            try:
                options, left, _ = self.make_parser(ctx).parse_args(list(given))
                break
            except TyperException as error:
                wrong += lines_of(error)
                flag = getattr(error, "option_name", "")
                places = [at for at, one in enumerate(given) if one.split("=")[0] == flag]
                if not places:
                    return wrong
                told.add(flag)
                after = given[places[0] + 1 : places[0] + 2]
                is_alone = "=" in given.pop(places[0]) or not after or after[0].startswith("-")
                may_be_its_value = may_be_its_value or not is_alone
        for param in self.get_params(ctx):
            is_in_doubt = may_be_its_value and param.param_type_name == "argument"
            try:
                _, left = param.handle_parse_result(ctx, options, left)
            except (TyperException, SettingsError) as error:
                if not is_in_doubt and told.isdisjoint(param.opts):
                    wrong += lines_of(error)
            if is_in_doubt:
                ctx.params.pop(param.name, None)
        if left and not may_be_its_value:
            wrong.append(f"there is no argument {' '.join(left)!r} (--help shows what there is)")
        return wrong


class Program(typer.Typer):
    """A Typer application whose commands are `CliCommand`s."""

    def command(
        self,
        name: str | None = None,
        *,
        check: Check | None = None,
        needs_settings: bool = True,
        **options: Any,
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """See Typer. `needs_settings`: wrong variables are reported with wrong flags."""

        class Command(CliCommand):
            pass

        Command.check = None if check is None else staticmethod(check)
        Command.needs_settings = needs_settings
        return super().command(name, cls=Command, **options)


def lines_of(error: TyperException | SettingsError) -> list[str]:
    """Return an error's lines for people."""
    if isinstance(error, SettingsError):
        return list(error.lines)
    return [f"{error.format_message()} (--help shows what there is)"]

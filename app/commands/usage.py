"""Commands, and groups of them, that report every wrong flag, name and variable, with a line each,
where Typer stops at the first one.

Each flag alone is checked by Typer and by the options' callbacks. What needs several flags, or the
settings, is checked by the command itself, and here too once something else is wrong. A group that
has found something goes on to the command, which reports it with its own.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import typer
from typer import TyperException
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from app.errors import SettingsError
from app.settings import settings_and_mistakes
from app.settings.kinds import number_mistake

Check = Callable[..., Any]
"""Called with the settings and with the arguments that are right; raises SettingsError."""

_WRONG = "dialwatch.wrong"
"""In a context's `meta`, which a command shares with its groups: what is wrong with theirs."""


class CliCommand(TyperCommand):
    """A Typer command that reports everything that is wrong with arguments and settings."""

    check: ClassVar[Check | None] = None
    needs_settings: ClassVar[bool] = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises SettingsError, with a line for each that is wrong."""
        given = list(args)
        lines: list[str] = ctx.meta.get(_WRONG, [])
        if lines:
            raise self._with_others(ctx, lines + self._wrong(ctx, given))
        try:
            options, _, _ = self.make_parser(ctx).parse_args(list(given))
            if not (ctx.resilient_parsing or options.get("help")):
                for param in self.get_params(ctx):
                    _check_number(ctx, param, options)
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
                told.add(flag)
                try:
                    may_be_its_value |= _take_out(given, flag) is not None
                except ValueError:
                    return wrong
        for param in self.get_params(ctx):
            if param.is_eager:  # --help: something is wrong, so nobody is helped
                continue
            is_in_doubt = may_be_its_value and param.param_type_name == "argument"
            try:
                _check_number(ctx, param, options)
                _, left = param.handle_parse_result(ctx, options, left)
            except (TyperException, SettingsError) as error:
                if not is_in_doubt and told.isdisjoint(param.opts):
                    wrong += lines_of(error)
            if is_in_doubt:
                ctx.params.pop(param.name, None)
        if left and not may_be_its_value:
            wrong.append(f"there is no argument {' '.join(left)!r} (--help shows what there is)")
        return wrong


class CliGroup(TyperGroup):
    """A Typer group whose own wrong flags are reported with those of the command behind them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the group's own arguments. Raises SettingsError where no command follows that could
        report what is wrong."""
        given = list(args)
        wrong: list[str] = ctx.meta.setdefault(_WRONG, [])
        while True:
            try:
                options, left, _ = self.make_parser(ctx).parse_args(list(given))
                break
            except TyperException as error:
                wrong += lines_of(error)
                try:
                    value = _take_out(given, getattr(error, "option_name", ""))
                except ValueError:
                    raise _with_variables(wrong) from None
                if value is not None and given[value] not in self.commands:
                    del given[value]
        is_eager = any(one.is_eager and one.name in options for one in self.get_params(ctx))
        if wrong and (is_eager or not left):
            raise _with_variables(wrong)
        return super().parse_args(ctx, given)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises SettingsError where there is none of that name."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            raise _with_variables(ctx.meta[_WRONG] + lines_of(error)) from None


def _check_number(ctx: Any, param: Any, options: dict[str, Any]) -> None:
    """Raise BadParameter where Typer would take for a number what people don't write as one."""
    value = options.get(param.name)
    if mistake := number_mistake(param.type_descriptor.annotation, value):
        raise typer.BadParameter(f"{mistake}, and is {value!r}", ctx=ctx, param=param)


def _take_out(given: list[str], flag: str) -> int | None:
    """Remove a wrong flag from arguments; return the place of what may be its value, if anything
    may. Raises ValueError where the flag isn't found."""
    names = [one.split("=")[0] for one in given]
    if flag in names:
        at = names.index(flag)
        may_have_value = "=" not in given.pop(at)
    else:  # one of several letters: -x in -vx
        letters = [
            len(flag) == 2 and one[:1] == "-" != one[1:2] and flag[1] in one for one in names
        ]
        at = letters.index(True)
        may_have_value = given[at].endswith(flag[-1])
        given[at] = given[at].replace(flag[-1], "", 1)
        at += 1
    follows = given[at : at + 1]
    return at if may_have_value and follows and not follows[0].startswith("-") else None


def _with_variables(lines: list[str]) -> SettingsError:
    """Return the error with these lines, and one for each wrong variable."""
    return SettingsError(list(dict.fromkeys(lines + settings_and_mistakes()[1])))


class Program(typer.Typer):
    """A Typer application whose commands are `CliCommand`s, and whose groups are `CliGroup`s."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=CliGroup, **options)

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

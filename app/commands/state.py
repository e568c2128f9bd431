"""`dialwatch state account|line`: what is remembered, as the changelog has it."""

from typing import Annotated, Any

import typer

from app.commands.options import OutputOption, RevealOption, ask, id_of
from app.commands.output import chosen, print_one
from app.commands.usage import Program
from app.errors import CommandError

state = Program(help="What is remembered of an account or a line.")


@state.command("account")
def account(
    account_id: Annotated[str, typer.Argument(metavar="ID", callback=id_of("ID"))],
    output: OutputOption = None,
    reveal: RevealOption = False,
) -> None:
    """Show what is remembered of an account: customer, run, batches, balance, expiry."""
    from app.operations.state import account_state  # noqa: PLC0415

    found = ask(lambda installation: account_state(installation, account_id, reveal=reveal))
    _print(found, f"account {account_id!r}", output)


@state.command("line")
def line(
    line_id: Annotated[str, typer.Argument(metavar="ID", callback=id_of("ID"))],
    output: OutputOption = None,
) -> None:
    """Show a line's run of errors and the accounts in it."""
    from app.operations.state import line_state  # noqa: PLC0415

    found = ask(lambda installation: line_state(installation, line_id))
    _print(found, f"line {line_id!r}", output)


def _print(found: dict[str, Any] | None, name: str, output: OutputOption) -> None:
    if found is None:
        raise CommandError(
            f"nothing is remembered of {name}: check the id, DIALWATCH_GROUP, and that workers "
            "have read up (dialwatch lag)"
        )
    print_one(found, chosen(output))

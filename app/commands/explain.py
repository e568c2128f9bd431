"""`dialwatch explain account`: where each rule stands, and why it has not fired or wasn't sent."""

from typing import Annotated

import typer

from app.commands.options import Language, OutputOption, ask, id_of
from app.commands.output import chosen, language_of, print_rows
from app.commands.usage import Program
from app.errors import CommandError
from streams.records import Scenario

explain = Program(help="Why an account was told something, or was not.")

_COLUMNS = ("scenario", "stands", "needs", "because")


@explain.command("account")
def account(
    account_id: Annotated[str, typer.Argument(metavar="ID", callback=id_of("ID"))],
    scenario: Annotated[Scenario | None, typer.Option(help="Only this scenario.")] = None,
    language: Annotated[
        Language | None, typer.Option(help="Of the sentences; usually as LANG says.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Say for each scenario where it stands with an account, and why it is silent."""
    from app.operations.explain import explain_account  # noqa: PLC0415

    spoken = language_of() if language is None else language.value
    found = ask(
        lambda installation: explain_account(
            installation, account_id, language="zh" if spoken == "zh" else "en"
        )
    )
    if found is None:
        raise CommandError(
            f"nothing is known of account {account_id!r}: check the id, DIALWATCH_GROUP, and that "
            "workers have read up (dialwatch lag)"
        )
    rows = [row for row in found if scenario in {None, row["scenario"]}]
    print_rows(rows, _COLUMNS, chosen(output))

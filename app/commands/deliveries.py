"""`dialwatch deliveries`: what became of notifications, newest first."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import (
    LimitOption,
    OutputOption,
    SinceOption,
    UntilOption,
    ask,
    id_of,
)
from app.commands.output import chosen, cut, print_rows
from app.errors import CommandError
from app.ranges import range_of
from app.settings import load_settings
from streams.records import Channel, Status

if TYPE_CHECKING:
    from app.operations.deliveries import DeliveryFilter
    from app.operations.installation import Installation

COLUMNS = (
    "at",
    "account_id",
    "scenario",
    "channel",
    "status",
    "error",
    "error_code",
    "attempts",
    "occurred_at",
    "title",
    "notification_id",
)
_FEW = ("at", "account_id", "scenario", "channel", "status", "error", "title", "notification_id")


def deliveries(
    account: Annotated[
        str | None, typer.Option(callback=id_of("--account"), help="Only this account's.")
    ] = None,
    notification: Annotated[
        str | None, typer.Option(callback=id_of("--notification"), help="Only this notification's.")
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="Only of this scenario.")] = None,
    channel: Annotated[Channel | None, typer.Option(help="Only by this channel.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only with this status.")] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    output: OutputOption = None,
) -> None:
    """List what became of notifications, newest first."""
    from app.operations.deliveries import DeliveryFilter  # noqa: PLC0415

    first, last = range_of(load_settings().zone, since, until)
    wanted = DeliveryFilter(
        account=account,
        notification=notification,
        scenario=scenario,
        channel=channel,
        status=status,
        since=first,
        until=last,
        limit=limit + 1,  # so that it shows whether there are more
    )
    rows = ask(lambda installation: _find(installation, wanted))
    print_rows(cut(rows, limit), COLUMNS, chosen(output), few=_FEW)


async def _find(installation: "Installation", wanted: "DeliveryFilter") -> list[dict[str, Any]]:
    from app.operations import deliveries as found  # noqa: PLC0415
    from app.operations.state import remember  # noqa: PLC0415

    rows = await found.find_deliveries(installation, wanted)
    if rows:
        return rows
    if wanted.notification is not None and not await found.is_known(
        installation, wanted.notification
    ):
        raise CommandError(
            f"there is no notification {wanted.notification!r}: check the id; retention may have "
            "deleted what was older"
        )
    if wanted.account is not None:
        any_of_it = found.DeliveryFilter(account=wanted.account, limit=1)
        _, known = await remember(installation, wanted.account)
        if known.is_nothing and not await found.look_for(installation, any_of_it):
            raise CommandError(
                f"nothing is known of account {wanted.account!r}: check the id and DIALWATCH_GROUP"
            )
    return rows

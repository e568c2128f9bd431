"""`dialwatch lag`: who reads what, and how far behind."""

from typing import Any

from app.commands.options import OutputOption, ask
from app.commands.output import OutputFormat, chosen, print_one, print_rows

_COLUMNS = ("topic", "partition", "committed", "end", "lag", "seconds_behind")


def lag(output: OutputOption = None) -> None:
    """Show the group's members and how far each partition is behind."""
    from app.operations.lag import group_lag  # noqa: PLC0415

    found = ask(group_lag)
    wanted = chosen(output)
    if wanted in {OutputFormat.JSON, OutputFormat.JSONL}:
        print_one(found, wanted)
        return
    if wanted is OutputFormat.TABLE:
        print_rows([_member(one) for one in found["members"]], ("worker", "host", "reads"), wanted)
    print_rows(found["partitions"], _COLUMNS, wanted)


def _member(member: dict[str, Any]) -> dict[str, Any]:
    reads = [
        f"{topic} {', '.join(map(str, numbers))}" for topic, numbers in member["partitions"].items()
    ]
    return member | {"reads": reads}

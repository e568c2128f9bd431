"""What operators ask and order, as plain functions that return plain dicts.

The commands and the console both show these. `open_installation` connects; then

    state.account_state(installation, account_id, reveal=False) -> dict | None
    state.line_state(installation, line_id) -> dict | None
    explain.explain_account(installation, account_id, language="en") -> list[dict] | None
    deliveries.find_deliveries(installation, Wanted(...)) -> list[dict]
    letters.find_letters(installation, Wanted(...)) -> list[dict]
    letters.read_letter(installation, "0:17") -> Letter
    redrive.plan / redrive.execute, discard.…
    lag.group_lag(installation) -> dict

Nothing here joins the group, and only `redrive` writes. Nothing here knows a terminal.
"""

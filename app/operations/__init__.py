"""What operators ask and order: plain functions that return plain dicts, used by commands and
console. All are coroutines; connect once, call often:

    async with installation.open_installation(settings) as connected:
        state.account_state(connected, account_id, reveal=False)      → dict | None
        state.line_state(connected, line_id)                          → dict | None
        explain.explain_account(connected, account_id, language="en") → list[dict] | None
        deliveries.find_deliveries(connected, deliveries.Wanted(…))   → list[dict], newest first
        letters.find_letters(connected, letters.Wanted(…))            → list[dict], newest first
        letters.read_letter(connected, "0:17")                        → Letter, with its bytes
        redrive.carry_out(connected, redrive.Order("redrive" | "discard", letters=[…], …))
                                                                      → dict: plan, counts
        lag.group_lag(connected)                                      → dict
        providers.holds_in_force(settings)                            → list | None

and for an account's state that was read already (tables/remembered.py), without Kafka:
`state.describe_account`, `explain.describe`. The dicts are the JSON of the commands.
Nothing here joins the group or knows a terminal. Only `redrive` and `expand` write.
"""

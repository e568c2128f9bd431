"""Interests: a call is told if its account wants calls of that interest class."""

from tables.customers import Customer
from tables.explained import Explained, Sentence


def is_wanted(result: str, intent_classes: str) -> bool:
    """Is a call's result (`A` to `E`, not `F` or `W`) among the classes wanted, as one string?"""
    return result in intent_classes


def explain(customer: Customer | None) -> Explained:
    """Explain which interest classes an account wants to be told of."""
    wanted = "" if customer is None else "".join(sorted(set(customer.intent_classes)))
    if not wanted:
        reason = Sentence("没有设置要通知的意向等级。", "No interest class is wanted.")
        return Explained(None, None, [reason])
    others = "".join(sorted(set("ABCDE") - set(wanted)))
    because = [
        Sentence(
            f"结果为{'、'.join(wanted)}的通话会立即通知。",
            f"A call with the result {' or '.join(wanted)} is told at once.",
        )
    ]
    if others:
        because.append(
            Sentence(
                f"结果为{'、'.join(others)}的通话不通知：没有选择这些等级。",
                f"A call with the result {' or '.join(others)} is not: its class is not wanted.",
            )
        )
    return Explained(None, ",".join(wanted), because)

"""Which topic is folded by what, in which order. Knows nothing of Faust: see `faust_agents.py`."""

from agents.accounts import AccountsAgent
from agents.announcements import AnnouncementsAgent
from agents.calls import CallsAgent, OnCounted
from agents.dispatch import DispatchAgent
from agents.lines import LinesAgent
from agents.rules import Rules
from streams.engine.types import Source
from streams.topics import Topics


def watching(rules: Rules, topics: Topics, on_counted: OnCounted | None = None) -> list[Source]:
    """Return the sources that the rules fold. `order` is the order within a partition: customers
    before their calls, and a tick only when everything older is folded.

    `on_counted`: see `CallsAgent`."""
    accounts = AccountsAgent(rules, topics)
    announcements = AnnouncementsAgent(rules, topics)
    return [
        Source(topics.accounts, accounts.fold_accounts, order=0, is_read_first=True),
        Source(topics.recharges, accounts.fold_recharges, order=1, is_timed=True),
        Source(topics.calls, CallsAgent(rules, topics, on_counted).fold, order=2, is_timed=True),
        Source(topics.line_segments, LinesAgent(rules, topics).fold, order=3),
        Source(topics.ticks, accounts.fold_ticks, order=4, is_clock=True),
        Source(topics.announcements, announcements.fold_announcements, order=5),
        Source(topics.fan_outs, announcements.fold_fan_outs, order=6, is_bulk=True),
    ]


def dispatching(rules: Rules, topics: Topics) -> Source:
    """Return the source that delivers commands or passes them on."""
    return Source(topics.notifications, DispatchAgent(topics, rules.zone).fold, order=7)

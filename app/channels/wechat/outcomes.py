"""What WeChat's answers mean: a table of all known codes and what is done about each.

Operators replace rows with `DIALWATCH_WECHAT_RULES`; see `parse_rules`.

The codes come from the official list of each API and the global table, public SDKs, and reports of
users. There may be others, so unknown codes have a row too. Pure: no clock, no I/O, no log.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto

from msgspec import Struct

from agents.outcomes import Held, Outcome, Refused, Sent, TryLater, Unclear
from app.http import Answer, NoAnswer
from streams.times import SECOND


class Do(Enum):
    """What is done about an answer."""

    ACCEPT = auto()
    RENEW_TOKEN = auto()
    TRY_LATER = auto()
    TRY_NEXT_MINUTE = auto()
    HOLD = auto()
    HOLD_TODAY = auto()
    HOLD_TEMPLATE = auto()
    HOLD_UNLESS_FOREIGN = auto()
    """Refuse if the message names another system's mini-program, else hold the channel."""
    REFUSE = auto()
    REFUSE_STRANGER = auto()
    """Refuse, and remember that the recipient doesn't follow the account."""
    CHECK_DUPLICATE = auto()
    """WeChat has seen the same content. After an unclear attempt it was that attempt's: it
    arrived."""
    REFUSE_OR_HOLD = auto()
    """Refuse where one recipient has this trouble; hold the channel when many have it."""


class Rule(Struct, frozen=True):
    """One row of the table."""

    do: Do
    after_s: float | None = None
    """Seconds until the next attempt of TRY_LATER (None: growing pauses) or probe of a hold."""
    most_tries: int | None = None
    """None: without a limit."""
    slow_tries: int = 0
    """For HOLD_TEMPLATE: how often to try again, slowly, before the template is held."""
    is_overload: bool = False
    """Send more slowly after this answer."""
    is_general: bool = False
    """For TRY_LATER: see `agents.outcomes.TryLater`."""
    is_recipients: bool = False
    """For TRY_LATER: see `agents.outcomes.TryLater`."""


class StaleToken(Struct, frozen=True):
    """The token must be renewed; the message was not taken."""

    error: str
    error_code: int


class Circumstances(Struct, frozen=True, kw_only=True):
    """Facts beside the answer that its meaning depends on."""

    now: int
    template_id: str
    is_own_template: bool = True
    is_own_jump: bool = True
    """Does the message name no mini-program other than ours?"""
    is_repeat: bool = False
    """May an earlier attempt have been accepted?"""
    recipients_hit: int = 1
    """How many different recipients in a row got this answer lately."""
    template_refusals: int = 1
    """How often in a row this template was refused."""


MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0

_REFUSE = Rule(Do.REFUSE)
_HOLD = Rule(Do.HOLD, MINUTE)
_HOLD_LONG = Rule(Do.HOLD, 10 * MINUTE)
_HOLD_TEMPLATE = Rule(Do.HOLD_TEMPLATE, MINUTE)
_RENEW_TOKEN = Rule(Do.RENEW_TOKEN)

RULES: Mapping[int, Rule] = {
    0: Rule(Do.ACCEPT),
    -1: Rule(Do.TRY_LATER, most_tries=5, is_overload=True, is_general=True),  # system busy
    40001: _RENEW_TOKEN,  # invalid credential, or not the latest
    40002: _HOLD,  # grant type
    40003: Rule(Do.TRY_LATER, MINUTE, most_tries=2),  # openid invalid; seen to pass by itself
    40008: _REFUSE,  # message type
    40013: Rule(Do.HOLD_UNLESS_FOREIGN, MINUTE),  # appid, the account's or the mini-program's
    40014: _RENEW_TOKEN,  # malformed token
    40030: _REFUSE,  # refresh token, OAuth only
    40033: _REFUSE,  # \uxxxx escapes
    40035: _REFUSE,  # parameters
    40036: _HOLD_TEMPLATE,  # template id, length
    40037: Rule(Do.HOLD_TEMPLATE, MINUTE, slow_tries=3),  # unknown; seen to pass within minutes
    40038: _REFUSE,  # body
    40039: _REFUSE,  # url, length
    40066: _REFUSE,  # API path
    40125: _HOLD,  # secret
    40164: _HOLD,  # IP not in the list
    40241: Rule(Do.CHECK_DUPLICATE, 61.0, most_tries=2),  # same content within 60 seconds
    40243: _HOLD_LONG,  # secret frozen
    40249: _REFUSE,  # content blocked
    41001: _REFUSE,  # token missing
    41002: _HOLD,  # appid missing
    41004: _HOLD,  # secret missing
    41028: _REFUSE,  # form_id, mini-program only
    41029: _REFUSE,
    41030: _REFUSE,
    42001: _RENEW_TOKEN,  # token expired
    42007: _REFUSE,  # OAuth only
    43001: _REFUSE,  # GET needed
    43002: _REFUSE,  # POST needed
    43003: _REFUSE,  # https needed
    43004: Rule(Do.REFUSE_STRANGER),  # doesn't follow
    43005: Rule(Do.REFUSE_STRANGER),  # no friend
    43019: _REFUSE,  # blacklisted by the account
    # Template changed too often.
    43100: Rule(Do.TRY_LATER, MINUTE, most_tries=5, is_general=True),
    43101: _REFUSE,  # the customer refuses this template; they may allow it again, silently
    43116: _HOLD_TEMPLATE,  # template restricted
    # Too often to this recipient.
    43117: Rule(Do.TRY_LATER, HOUR, most_tries=2, is_recipients=True),
    44002: _REFUSE,  # body empty
    45002: _REFUSE,  # body too long
    # The day's quota. It is reset at midnight in Shanghai, or by an operator: one probe a minute
    # finds that out.
    45009: Rule(Do.HOLD_TODAY, MINUTE),
    # The minute's quota.
    45011: Rule(Do.TRY_NEXT_MINUTE, most_tries=5, is_overload=True, is_general=True),
    45015: _REFUSE,  # customer-service messages only
    45035: _HOLD,  # IP not in the list
    45047: _REFUSE,  # customer-service messages only
    45065: Rule(Do.ACCEPT),  # this client message id was taken before
    45067: _REFUSE,  # client message id too long
    45109: _REFUSE,  # mini-program template
    47001: _REFUSE,  # JSON
    47003: _REFUSE,  # a field's value; the text names it
    48001: _HOLD,  # API not granted
    48002: _REFUSE,  # the customer takes no messages
    48004: _HOLD_LONG,  # API banned
    48006: _HOLD_LONG,  # clear_quota used up
    48008: _HOLD_LONG,  # no permission for this type
    50001: _REFUSE,  # the customer hasn't authorised
    50002: Rule(Do.REFUSE_OR_HOLD, 10 * MINUTE),  # customer or account restricted
    50005: Rule(Do.REFUSE_STRANGER),  # no follower
    61004: _HOLD,  # IP not in the list
    89501: _HOLD,  # IP waits for the administrator
    89503: _HOLD,  # IP needs the administrator's consent
    89506: Rule(Do.HOLD, DAY),  # IP refused twice
    89507: Rule(Do.HOLD, HOUR),  # IP refused once
}
UNKNOWN = Rule(Do.TRY_LATER, most_tries=3)
MANY_RECIPIENTS = 5

# A bad template of another system is that system's trouble: its message is given up after some
# tries, so that it doesn't block the customer's other messages for ever.
SLOW_SECONDS = 20.0
_FOREIGN_TEMPLATE = Rule(Do.TRY_LATER, SLOW_SECONDS, most_tries=4)

_OVERRIDE = re.compile(r"(-?\d{1,6})=([a-z_]+)(?::(\d{1,6}(?:\.\d+)?))?(?::([1-9]\d?))?", re.ASCII)
_OVERRIDABLE = {do.name.lower(): do for do in Do}


def parse_rules(setting: str) -> Mapping[int, Rule]:
    """Return the table with an operator's rows in place of ours.

    A row is `CODE=ACTION`, `CODE=ACTION:SECONDS` or `CODE=ACTION:SECONDS:TRIES`, with an action
    of `Do` in lower case; rows are separated by commas. Raises ValueError with what is wrong.
    """
    rules = dict(RULES)
    for row in filter(None, (part.strip() for part in setting.split(","))):
        shape = _OVERRIDE.fullmatch(row)
        do = _OVERRIDABLE.get(shape[2]) if shape else None
        if shape is None or do is None:
            raise ValueError(
                "must be rows CODE=ACTION:SECONDS:TRIES separated by commas, with the actions "
                + ", ".join(_OVERRIDABLE)
            )
        code, after_s, tries = int(shape[1]), shape[3], shape[4]
        before = rules.get(code, UNKNOWN)
        rules[code] = Rule(
            do,
            float(after_s) if after_s else None,
            int(tries) if tries else None,
            is_overload=before.is_overload,
            # Without a number of tries it may go on for ever: then operators must see it.
            is_general=tries is None and not before.is_recipients,
            is_recipients=before.is_recipients,
        )
    return rules


_RID = re.compile(r"[\s,]*(?:hints?: *\[[^\]]*\]|rid: *[\w-]+)", re.IGNORECASE)
_MOST_TEXT = 200
_SHANGHAI_OFFSET = 8 * HOUR


def error_text(errmsg: object) -> str:
    """Return WeChat's text without the request id, so that equal errors have equal texts."""
    return _RID.sub("", str(errmsg)).strip()[:_MOST_TEXT]


def rid(errmsg: object) -> str | None:
    """Return the request id in WeChat's text, which Tencent's support asks for."""
    found = re.search(r"rid: *([\w-]+)", str(errmsg))
    return found[1] if found else None


def errcode(answer: Answer) -> int | None:
    """Return the code of an answer; None: it isn't an answer of WeChat's."""
    if answer.body is None:
        return None
    code = answer.body.get("errcode", 0 if "access_token" in answer.body else None)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def rule_for(answer: Answer | NoAnswer, rules: Mapping[int, Rule] = RULES) -> Rule | None:
    """Return the row of an answer's code; None: it has no code."""
    code = errcode(answer) if isinstance(answer, Answer) else None
    return None if code is None else rules.get(code, UNKNOWN)


def outcome(
    answer: Answer | NoAnswer, circumstances: Circumstances, rules: Mapping[int, Rule] = RULES
) -> Outcome | StaleToken:
    """Return what an answer to a send means."""
    if isinstance(answer, NoAnswer):
        return Unclear(answer.error) if answer.may_be_taken else TryLater(answer.error)
    rule = rule_for(answer, rules)
    if answer.status != 200 or rule is None or answer.body is None:
        return _outcome_of_status(answer)
    code = errcode(answer) or 0
    text = error_text(answer.body.get("errmsg", "")) or f"errcode {code}"
    if rule.do is Do.HOLD_TEMPLATE and not circumstances.is_own_template:
        rule = _FOREIGN_TEMPLATE
    match rule.do:
        case Do.ACCEPT:
            msgid = answer.body.get("msgid")
            return Sent(str(msgid) if isinstance(msgid, int | str) and msgid else None)
        case Do.RENEW_TOKEN:
            return StaleToken(text, code)
        case Do.TRY_LATER | Do.TRY_NEXT_MINUTE:
            is_to_next = rule.do is Do.TRY_NEXT_MINUTE
            return TryLater(
                text,
                _left_s(circumstances.now, MINUTE) if is_to_next else rule.after_s,
                code,
                rule.most_tries,
                rule.is_general,
                rule.is_recipients,
            )
        case Do.HOLD_UNLESS_FOREIGN if not circumstances.is_own_jump:
            return Refused(f"{text}: the message's mini-program", code)
        case Do.HOLD | Do.HOLD_UNLESS_FOREIGN:
            return Held(text, rule.after_s or MINUTE, code)
        case Do.HOLD_TODAY:
            left_s = _left_s(circumstances.now, DAY)
            return Held(text, min(rule.after_s or left_s, left_s), code)
        case Do.HOLD_TEMPLATE if circumstances.template_refusals <= rule.slow_tries:
            return TryLater(text, SLOW_SECONDS, code)
        case Do.HOLD_TEMPLATE:
            return Held(text, rule.after_s or MINUTE, code, scope=circumstances.template_id)
        case Do.CHECK_DUPLICATE:
            if circumstances.is_repeat:
                return Sent()
            return TryLater(text, rule.after_s, code, rule.most_tries)
        case Do.REFUSE_OR_HOLD if circumstances.recipients_hit > MANY_RECIPIENTS:
            return Held(text, rule.after_s or MINUTE, code)
        case _:
            return Refused(text, code)


def token_outcome(answer: Answer | NoAnswer, now: int, rules: Mapping[int, Rule] = RULES) -> Held:
    """Return the hold for an answer of the token endpoint without a token.

    No message was sent, so that none is in doubt; without a token nothing can be sent. A hold of 0
    seconds means: for as long as the caller backs off. A wrong appid or secret may give 40001 too.
    """
    if isinstance(answer, NoAnswer):
        return Held(f"token: {answer.error}", 0.0)
    rule = rule_for(answer, rules)
    if rule is None or answer.body is None:
        return Held(f"token: HTTP {answer.status}, no token in the answer", 0.0)
    code, text = errcode(answer), f"token: {error_text(answer.body.get('errmsg', ''))}"
    if rule.do is Do.TRY_LATER and rule is not UNKNOWN:
        return Held(text, rule.after_s or 0.0, code)
    if rule.do is Do.TRY_NEXT_MINUTE:
        return Held(text, _left_s(now, MINUTE), code)
    return Held(text, rule.after_s or MINUTE, code)


def _outcome_of_status(answer: Answer) -> Outcome:
    """Return the outcome of an answer that isn't WeChat's: of a proxy, or of a wrong address."""
    status, text = answer.status, f"HTTP {answer.status}"
    if status == 429:
        return TryLater(text, answer.retry_after_s, status, is_general=True)
    if status in {413, 414, 431}:
        return Refused(text, status)
    if 300 <= status < 500:
        # Even 400 isn't about the message: WeChat answers 200, and a proxy doesn't know messages.
        return Held(f"{text}: is DIALWATCH_WECHAT_BASE_URL right?", MINUTE, status)
    if status < 300:
        return Unclear(f"{text}, no answer of WeChat's")
    return Unclear(text, status)


def _left_s(now: int, period_s: float) -> float:
    """Return the seconds until the next whole minute or day in Shanghai."""
    return period_s - (now / SECOND + _SHANGHAI_OFFSET) % period_s

"""Every code of WeChat's and what it means, one row each."""

import pytest

from agents.outcomes import Held, Outcome, Refused, Sent, TryLater, Unclear
from app.channels.wechat.outcomes import (
    RULES,
    Circumstances,
    StaleToken,
    error_text,
    outcome,
    parse_rules,
    rid,
    token_outcome,
)
from app.http import Answer, NoAnswer
from streams.times import parse_instant

NOW = parse_instant("2019-01-30T15:52:10+08:00")
TO_NEXT_MINUTE = 50.0
TO_MIDNIGHT = 8 * 3600 + 7 * 60 + 50.0  # from 15:52:10


def answer(code: int, **fields: object) -> Answer:
    """Return an answer as WeChat gives it: HTTP 200, whatever happened."""
    return Answer(200, {"errcode": code, "errmsg": "text rid: 5f-ab-1", **fields})


def circumstances(**changes: object) -> Circumstances:
    """Return a first attempt with our own template."""
    values: dict[str, object] = {"now": NOW, "template_id": "T"} | changes
    return Circumstances(**values)  # type: ignore[arg-type]


EXPECTED: dict[int, Outcome | StaleToken] = {
    # Taken; the real word comes later.
    0: Sent("3487542469355618313"),
    45065: Sent("3487542469355618313"),
    # Back off and try again: a message alone so often, all together as often as it takes.
    -1: TryLater("text", None, -1, 5, is_general=True),
    43100: TryLater("text", 60, 43100, 5, is_general=True),
    45011: TryLater("text", TO_NEXT_MINUTE, 45011, 5, is_general=True),
    # A token renewed, and once more.
    40001: StaleToken("text", 40001),
    40014: StaleToken("text", 40014),
    42001: StaleToken("text", 42001),
    # So many tries.
    40003: TryLater("text", 60, 40003, 2),
    40241: TryLater("text", 61, 40241, 2),
    43117: TryLater("text", 3600, 43117, 2, is_recipients=True),
    99999: TryLater("text", None, 99999, 3),
    # The template is parked.
    40036: Held("text", 60, 40036, "T"),
    40037: TryLater("text", 20, 40037),  # at first; see below
    43116: Held("text", 60, 43116, "T"),
    # The account is held: for the day, for Tencent's own time, or until somebody repairs it.
    45009: Held("text", 60, 45009),
    89506: Held("text", 86400, 89506),
    89507: Held("text", 3600, 89507),
    **{
        code: Held("text", 60, code)
        for code in (
            *(40002, 40013, 40125, 40164, 41002, 41004, 45035, 48001, 61004, 89501, 89503),
        )
    },
    **{code: Held("text", 600, code) for code in (40243, 48004, 48006, 48008)},
    # Given up: our bug, this content, or this customer.
    **{
        code: Refused("text", code)
        for code in (
            *(40008, 40030, 40033, 40035, 40038, 40039, 40066, 40249, 41001, 41028, 41029, 41030),
            *(42007, 43001, 43002, 43003, 43004, 43005, 43019, 43101, 44002, 45002, 45015, 45047),
            *(45067, 45109, 47001, 47003, 48002, 50001, 50002, 50005),
        )
    },
}


@pytest.mark.parametrize(("code", "expected"), EXPECTED.items())
def test_every_code_means_what_the_table_says(code: int, expected: Outcome) -> None:
    assert outcome(answer(code, msgid=3487542469355618313), circumstances()) == expected


def test_no_code_of_the_table_is_untested() -> None:
    assert set(EXPECTED) - {99999} == set(RULES)


def test_the_daily_quota_is_never_waited_for_beyond_midnight_in_shanghai() -> None:
    late = parse_instant("2019-01-30T23:59:30+08:00")
    assert outcome(answer(45009), circumstances(now=late)) == Held("text", 30, 45009)
    assert TO_MIDNIGHT > 60  # so that in the afternoon the minute counts


def test_a_duplicate_after_an_attempt_in_doubt_is_that_attempt() -> None:
    assert outcome(answer(40241), circumstances(is_repeat=True)) == Sent()


def test_another_systems_template_holds_nobody_and_is_given_up_after_some_tries() -> None:
    foreign = circumstances(is_own_template=False)
    assert outcome(answer(40037), foreign) == TryLater("text", 20, 40037, 4)


def test_a_restriction_that_many_customers_meet_is_the_accounts() -> None:
    assert outcome(answer(50002), circumstances(recipients_hit=5)) == Refused("text", 50002)
    assert outcome(answer(50002), circumstances(recipients_hit=6)) == Held("text", 600, 50002)


def test_another_systems_mini_program_costs_its_message_and_ours_the_channel() -> None:
    foreign = circumstances(is_own_jump=False)
    assert outcome(answer(40013), foreign) == Refused("text: the message's mini-program", 40013)


@pytest.mark.parametrize(
    ("refusals", "expected"),
    [
        # Seen to pass by itself within minutes: three slow tries, then the template is parked.
        *[(number, TryLater("text", 20, 40037)) for number in (1, 2, 3)],
        (4, Held("text", 60, 40037, "T")),
    ],
)
def test_an_unknown_template_is_tried_three_times_slowly_and_then_held(
    refusals: int, expected: Outcome
) -> None:
    assert outcome(answer(40037), circumstances(template_refusals=refusals)) == expected


def test_an_operator_replaces_rows_of_the_table() -> None:
    rules = parse_rules("43101=try_later:5, 40003=refuse,12345=hold:7.5,-1=try_later:2:3")
    assert outcome(answer(43101), circumstances(), rules) == TryLater(
        "text", 5, 43101, is_general=True
    )
    assert outcome(answer(40003), circumstances(), rules) == Refused("text", 40003)
    assert outcome(answer(12345), circumstances(), rules) == Held("text", 7.5, 12345)
    assert outcome(answer(-1), circumstances(), rules) == TryLater("text", 2, -1, 3)
    assert rules[-1].is_overload
    assert {code for code in rules if rules[code] != RULES.get(code)} == {43101, 40003, 12345, -1}
    # How often one recipient may be told so is the operator's; that it is theirs is WeChat's.
    assert outcome(answer(43117), circumstances(), parse_rules("43117=try_later:5")) == TryLater(
        "text", 5, 43117, is_recipients=True
    )
    assert parse_rules("") == RULES


@pytest.mark.parametrize("setting", ["43101", "43101=shout", "x=refuse", "1=hold:-5", "1=hold:5:0"])
def test_a_row_that_makes_no_sense_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"^must be rows CODE=ACTION.* refuse_stranger"):
        parse_rules(setting)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (NoAnswer("ConnectError", may_be_taken=False), TryLater("ConnectError")),
        (NoAnswer("ReadTimeout", may_be_taken=True), Unclear("ReadTimeout")),
        (Answer(500), Unclear("HTTP 500", 500)),
        (Answer(502, {"errcode": 0}), Unclear("HTTP 502", 502)),
        (Answer(429, None, 7.0), TryLater("HTTP 429", 7.0, 429, is_general=True)),
        # Somebody's between us and WeChat, who doesn't know our messages.
        (Answer(400), Held("HTTP 400: is DIALWATCH_WECHAT_BASE_URL right?", 60, 400)),
        (Answer(413), Refused("HTTP 413", 413)),
        (Answer(404), Held("HTTP 404: is DIALWATCH_WECHAT_BASE_URL right?", 60, 404)),
        (Answer(302), Held("HTTP 302: is DIALWATCH_WECHAT_BASE_URL right?", 60, 302)),
        (Answer(200), Unclear("HTTP 200, no answer of WeChat's")),
        (Answer(200, {"errcode": "0"}), Unclear("HTTP 200, no answer of WeChat's")),
        (Answer(200, {"errcode": True}), Unclear("HTTP 200, no answer of WeChat's")),
    ],
)
def test_what_no_code_came_with(received: Answer | NoAnswer, expected: Outcome) -> None:
    assert outcome(received, circumstances()) == expected


@pytest.mark.parametrize(
    ("errmsg", "grouped", "request_id"),
    [
        (
            "system error rid: 5f6c1f1e-2d5e9a3b-1c7d8e9f",
            "system error",
            "5f6c1f1e-2d5e9a3b-1c7d8e9f",
        ),
        ("invalid credential hints: [req_id: ab12] rid: 61-2-3", "invalid credential", "61-2-3"),
        (
            "argument invalid! data.thing1.value invalid",
            "argument invalid! data.thing1.value invalid",
            None,
        ),
        ("", "", None),
    ],
)
def test_errors_are_grouped_without_the_request_id(
    errmsg: str, grouped: str, request_id: str | None
) -> None:
    assert error_text(errmsg) == grouped
    assert rid(errmsg) == request_id


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        # A wrong secret shows as 40001 here: no renewal helps.
        (answer(40001), Held("token: text", 60, 40001)),
        (answer(40125), Held("token: text", 60, 40125)),
        (answer(89507), Held("token: text", 3600, 89507)),
        (answer(-1), Held("token: text", 0, -1)),
        (answer(45011), Held("token: text", TO_NEXT_MINUTE, 45011)),
        (answer(77777), Held("token: text", 60, 77777)),
        (Answer(503), Held("token: HTTP 503, no token in the answer", 0)),
        # No message was sent, so that none is in doubt.
        (NoAnswer("ReadTimeout", may_be_taken=True), Held("token: ReadTimeout", 0)),
    ],
)
def test_a_token_that_does_not_come_puts_no_message_in_doubt(
    received: Answer | NoAnswer, expected: Held
) -> None:
    assert token_outcome(received, NOW) == expected

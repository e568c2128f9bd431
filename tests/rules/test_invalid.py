"""What the contract calls invalid, topic by topic, and what it doesn't."""

import json
import re
import time
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.decoding import (
    CallsParsed,
    InvalidRecordError,
    decode_account,
    decode_announcement,
    decode_call,
    decode_notification,
    decode_recharge,
    decode_tick,
)
from streams.times import format_instant, format_moment, parse_instant
from tables.texts import clock_text
from tests.drive import Drive
from tests.installation import Published
from tests.rules.test_noticing import failures, scenarios
from tests.rules.test_texts import ZONE
from tests.samples import account, announcement, call, recharge, ticks

COMMAND = {
    "notification_id": "n1",
    "scenario": "interested_customer",
    "account_id": "acme",
    "channel": "inbox",
    "occurred_at": "2019-01-30T15:52:10+08:00",
    "title": "t",
    "content": "c",
    "page": None,
    "cause": {},
}

Decode = Callable[[bytes | None, bytes | None], Any]
TOPICS: dict[str, tuple[Decode, Published]] = {
    "call-records": (decode_call, call("acme", 0)),
    "recharges": (decode_recharge, recharge("acme", "r1")),
    "announcements": (decode_announcement, announcement("n1")),
    "accounts": (decode_account, account("acme")),
    "ticks": (decode_tick, ticks("2019-01-30T15:52:10+08:00", 1)[0]),
    "notifications": (decode_notification, Published("notifications", "acme", COMMAND)),
}


def decode(topic: str, value: bytes | None, key: Any = ...) -> Any:
    """Decode a value as a topic's; its key, unless given, is the sample's."""
    decoder, sample = TOPICS[topic]
    whose = sample.key if key is ... else key
    return decoder(whose.encode() if isinstance(whose, str) else whose, value)


def with_field(topic: str, name: str, text: bytes) -> bytes:
    """A sample's value with a field whose JSON is given as it is."""
    value = {key: one for key, one in TOPICS[topic][1].value.items() if key != name}
    begin = json.dumps(value | {"filler": 0}).encode()[:-1]
    return begin + b', "' + name.encode() + b'": ' + text + b"}"


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize(
    "text",
    [
        # What some parsers take for a number, a word or a string.
        *(b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b".5", b"+1", b"1e", b"-", b"0x10"),
        *(b"1_000", b"1.5.5", b"True", b"nul", b"nulll", b"'a'", b"undefined", b"1/*x*/"),
        # Escapes that there aren't, and characters that must be escaped.
        *(rb'"\x"', rb'"\u12"', rb'"\uZZZZ"', rb'"\0"', rb'"\U0001F600"', b'"a\\'),
        *(b'"a\nb"', b'"a\tb"', b'"\0"', b'"a text of some length, then \x1f"'),
        # Lists and objects.
        *(b"[1,]", b"[,1]", b"[1 2]", b"[1", b"[1}", b'{"a":1,}', b"{1:2}", b'{"a" 1}'),
        *(rb'{"\x":1}', b'{"a\nb":1}', b"\x0c1", b"\xc2\xa01"),
        # What isn't UTF-8.
        *(b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xe4\xbd"', b'{"\xff":1}'),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
    ],
)
def test_what_isnt_strict_json_makes_the_record_invalid_also_inside_an_unknown_field(
    topic: str, text: bytes
) -> None:
    with pytest.raises(InvalidRecordError, match=r"^value: is "):
        decode(topic, with_field(topic, "added_some_day", text))


@pytest.mark.parametrize("topic", TOPICS)
def test_nothing_stands_before_or_behind_the_object(topic: str) -> None:
    whole = json.dumps(TOPICS[topic][1].value).encode()
    decode(topic, b" \r\n\t" + whole + b" \r\n\t")
    for value in (b"\xef\xbb\xbf" + whole, whole + b"x", whole + b"\0", whole + whole, b"", b"null",
                  b"[" + whole + b"]", b'"text"', whole.decode().encode("utf-16")):  # fmt: skip
        with pytest.raises(InvalidRecordError, match=r"^value: "):
            decode(topic, value)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize(
    "text",
    [
        *(
            b"1e400",
            b"-0",
            pytest.param(b"1" * 5000, id="long"),
            b'{"a":1,"a":[]}',
            rb'"\/\u0000\ud83d\ude00"',
            b'"\x7f"',
        ),
        # A text that was cut in the middle of an emoji.
        *(rb'"\ud83d"', rb'"and more \ude00"', rb'{"\ud83d": 1.5}'),
    ],
)
def test_unknown_fields_are_ignored(topic: str, text: bytes) -> None:
    decode(topic, with_field(topic, "added_some_day", text))


def test_a_known_field_with_half_a_surrogate_pair_is_named() -> None:
    with pytest.raises(InvalidRecordError, match=r"^name: "):
        decode("accounts", with_field("accounts", "name", rb'"\ud83d"'))
    with pytest.raises(InvalidRecordError, match=r"^cause: "):
        decode("notifications", with_field("notifications", "cause", rb'{"x": "\ud83d"}'))


@pytest.mark.parametrize("other", [b'"whole"', rb'"\ud83d"'])
def test_a_number_is_judged_alike_whatever_an_unknown_field_holds(other: bytes) -> None:
    def decoded(topic: str, field: str, number: bytes) -> Any:
        value = with_field(topic, field, number)
        return getattr(decode(topic, b'{"added_some_day": ' + other + b"," + value[1:]), field)

    assert decoded("call-records", "duration_s", b"1e308") == 1e308
    long = b"9" * 4000
    assert decoded("notifications", "cause", b'{"a": ' + long + b"}") == {"a": int(long)}
    for number in (b"1e400", b"-1e400", long):
        with pytest.raises(InvalidRecordError, match=r"^duration_s: number out of range$"):
            decoded("call-records", "duration_s", number)
    for number in (b"[1e400]", b"9" * 5000):
        with pytest.raises(InvalidRecordError, match=r"^cause\S*: .*out of range$"):
            decoded("notifications", "cause", b'{"a": ' + number + b"}")


def test_no_number_of_a_cause_takes_much_longer_than_others() -> None:
    def seconds(number: bytes) -> float:
        value = with_field("notifications", "cause", b'{"x": [' + (number + b",") * 20_000 + b"1]}")
        spent = []
        for _ in range(3):
            begin = time.process_time()
            assert decode("notifications", value).cause["x"][0] == float(number)
            spent.append(time.process_time() - begin)
        return min(spent)

    usual = seconds(b"0.5")
    for number in (b"1e300", b"1e23", b"2.2250738585072011e-308", b"4." + b"9" * 30):
        assert seconds(number) < 50 * usual


OPTIONAL = {
    "call-records": {"balance", "duration_s", "error"},
    "accounts": {"openid", "phone", "intent_classes", "balance_threshold", "expires_at",
                 "channels"},
    "notifications": {"page", "openid", "template_id", "data", "url", "app_id", "page_path"},
}  # fmt: skip


@pytest.mark.parametrize("topic", TOPICS)
def test_a_missing_field_is_named_and_null_in_an_optional_field_is_the_same_as_none(
    topic: str,
) -> None:
    value = TOPICS[topic][1].value
    optional = OPTIONAL.get(topic, set())
    for name in {*value} - optional:
        left = {key: one for key, one in value.items() if key != name}
        with pytest.raises(InvalidRecordError, match=rf"^{name}: is missing$"):
            decode(topic, json.dumps(left).encode())
        if (topic, name) != ("notifications", "account_id"):
            with pytest.raises(InvalidRecordError, match=rf"^{name}: "):
                decode(topic, json.dumps(value | {name: None}).encode())
    decode(topic, json.dumps(value | dict.fromkeys(optional)).encode())


@pytest.mark.parametrize(
    ("topic", "field", "wrong"),
    [
        ("call-records", "result", ["a", "G", "", 1, None, "A "]),
        ("call-records", "batch_size", [0, -1, 1.0, "1000", True, 10**30]),
        ("call-records", "batch_index", [-1, 1000, 0.0, "0", False]),
        ("call-records", "duration_s", [-0.1, "1", True]),
        ("call-records", "error", [1, ["x"]]),
        ("call-records", "balance", [50, "5.000", "5.", ".5", "+5", "1e2", " 5", "５", ""]),
        ("call-records", "ended_at", ["2019-01-30", "2019-01-30T15:52:10", "2019-01-30 15:52:10Z",
                                      "2019-01-30T15:52:10+0800", "2019-02-30T00:00:00Z",
                                      "2019-01-30T24:00:00Z", "2019-01-30T15:52:1012Z",
                                      "2019-01-30T15:52:10+24:00", "9999-12-31T23:59:60Z",
                                      1548834730, ""]),
        ("recharges", "amount", ["0", "0.00", "-0.01", 5, "x"]),
        ("recharges", "balance", [None, "x", 1.5]),
        ("recharges", "completed_at", ["now", None]),
        ("announcements", "published_at", ["x", None]),
        ("announcements", "content", [None, 1, ["x"]]),
        ("accounts", "intent_classes", [["F"], ["W"], ["AB"], "A", [None], {}]),
        ("accounts", "balance_threshold", [50, "fifty", ""]),
        ("accounts", "expires_at", ["", "2019-02-01"]),
        ("accounts", "channels", [[], "sms", {"low_balance": ["mail"]}, {"low_balance": "sms"},
                                  {"low_balance": [None]}]),
        ("accounts", "openid", [1]),
        ("ticks", "at", ["2019-01-30T15:52:10", 0, None]),
        ("notifications", "channel", ["mail", None]),
        ("notifications", "data", [{"a": 1}, ["x"], "x"]),
        ("notifications", "occurred_at", ["yesterday"]),
        ("notifications", "notification_id", ["", "x" * 65, "通知"]),
    ],
)  # fmt: skip
def test_a_mistyped_or_out_of_range_field_is_named(
    topic: str, field: str, wrong: list[Any]
) -> None:
    for content in wrong:
        with pytest.raises(InvalidRecordError, match=rf"^{field}\b.*: "):
            decode(topic, with_field(topic, field, json.dumps(content).encode()))


@pytest.mark.parametrize("topic", TOPICS)
def test_a_key_that_isnt_the_records_makes_the_record_invalid(topic: str) -> None:
    value = json.dumps(TOPICS[topic][1].value).encode()
    wrong: list[bytes | None] = [b"other", b"\xff", b"acme ", b""]
    if topic != "ticks":
        wrong.append(None)
    for key in wrong:
        with pytest.raises(InvalidRecordError, match=r"^key: "):
            decode(topic, value, key)


def test_a_null_value_deletes_an_account_and_is_invalid_elsewhere() -> None:
    assert decode("accounts", None) is None
    for topic in {*TOPICS} - {"accounts"}:
        with pytest.raises(InvalidRecordError, match=r"^value: is missing"):
            decode(topic, None)
    for key in (None, b"\xff"):
        with pytest.raises(InvalidRecordError, match=r"^key: "):
            decode("accounts", None, key)


def test_what_its_channel_doesnt_use_a_command_may_leave_out() -> None:
    given = {name: COMMAND[name] for name in ("notification_id", "scenario", "account_id",
                                              "occurred_at")}  # fmt: skip
    for more in (
        {"channel": "sms", "content": "c"},
        {"channel": "wechat", "title": "t", "content": "c"},
        {"channel": "wechat", "data": {"thing1": "x"}, "openid": "o", "url": "https://x"},
    ):
        left_out = decode("notifications", json.dumps(given | more).encode())
        none = dict.fromkeys(COMMAND.keys() - given.keys()) | given | more
        assert decode("notifications", json.dumps(none).encode()) == left_out
    for less, missing in (
        ({"channel": "sms"}, "content"),
        ({"channel": "wechat", "content": "c"}, "title"),
        ({"channel": "inbox", "title": "t", "content": "c"}, "cause"),
    ):
        with pytest.raises(InvalidRecordError, match=rf"^{missing}: is missing"):
            decode("notifications", json.dumps(given | less).encode())
        with pytest.raises(InvalidRecordError, match=rf"^{missing}: is null"):
            decode("notifications", json.dumps(given | less | {missing: None}).encode())
    with pytest.raises(InvalidRecordError, match=r"^content: is empty$"):
        decode("notifications", json.dumps(COMMAND | {"content": ""}).encode())


def test_a_dead_letter_is_the_original_with_a_reason_of_one_line_that_fits_beside_it() -> None:
    drive = Drive()
    long = "F\n" * 200_000
    records = [
        Published("call-records", b"\xff", b"\xfe{"),
        Published("call-records", None, call("acme", 0).value),
        call("acme", 0, result=long),
        call("acme", 0, result="\ud83d"),
        Published("recharges", "acme", None),
    ]
    drive.take(records)
    assert [one.key for one in drive.letters] == [b"\xff", None, b"acme", b"acme", b"acme"]
    assert drive.letters[0].value == b"\xfe{"
    assert drive.letters[4].value is None
    fields = ["value", "key", "result", "result", "value"]
    assert [one.partition(":")[0] for one in drive.reasons()] == fields
    for letter in drive.letters:
        headers = {name: text.decode() for name, text in letter.headers}
        assert [*headers] == [
            f"dialwatch.{name}" for name in ("topic", "partition", "offset", "reason", "at")
        ]
        assert len(headers["dialwatch.reason"].splitlines()) == 1
        assert len(headers["dialwatch.reason"]) <= 300
        parse_instant(headers["dialwatch.at"])
    assert [dict(one.headers)["dialwatch.offset"] for one in drive.letters] == [
        b"0", b"1", b"2", b"3", b"4"
    ]  # fmt: skip


def test_a_call_with_an_emoji_cut_in_two_counts() -> None:
    drive = Drive()
    value = json.dumps(failures(1, 99)[0].value | {"remark": "\ud83d"}).encode()
    drive.take(failures(99))
    assert scenarios(drive.take([Published("call-records", "acme", value)])) == ["unreachable_run"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-01-30T07:52:10Z", "2019-01-30T15:52:10+08:00"),
        ("2019-01-30t07:52:10z", "2019-01-30T15:52:10+08:00"),
        ("2019-01-30T02:52:10.5-05:00", "2019-01-30T15:52:10.500000+08:00"),
        # Finer than a microsecond: cut off, or it would be another second, minute and day.
        ("2019-01-30T23:59:59.9999999+08:00", "2019-01-30T23:59:59.999999+08:00"),
        ("2019-01-30T15:52:10.123456789+08:00", "2019-01-30T15:52:10.123456+08:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T08:00:00+08:00"),
    ],
)
def test_times_are_rfc_3339_with_an_offset(text: str, expected: str) -> None:
    assert format_instant(parse_instant(text), ZONE) == expected


@given(
    instant=st.integers(
        parse_instant("0001-01-01T00:00:00Z"), parse_instant("9999-12-31T23:59:59Z")
    ),
    zone=st.sampled_from(["Asia/Shanghai", "Africa/Monrovia", "America/St_Johns", "Pacific/Apia"]),
)
def test_every_time_of_ours_is_one_that_the_contract_takes(instant: int, zone: str) -> None:
    assert parse_instant(format_instant(instant, ZoneInfo(zone))) == instant
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", clock_text(instant, ZoneInfo(zone)))


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/St_Johns", "UTC"])
def test_what_lies_outside_the_calendar_becomes_its_end(zone: str) -> None:
    for instant, year in ((1 << 70, "9999-12-31T"), (-(1 << 70), "0001-01-01T")):
        assert format_instant(instant, ZoneInfo(zone)).startswith(year)
        assert format_moment(instant, ZoneInfo(zone)).startswith(year)


def test_a_zero_time_is_a_time() -> None:
    drive = Drive()
    zero = "0001-01-01T00:00:00Z"
    (inbox, _) = drive.take([call("acme", 0, batch_size=1, submitted_at=zero, ended_at=zero)])
    decode_notification(b"acme", json.dumps(inbox).encode())
    assert inbox["content"].startswith("您在0001-01-01 08:05:43创建的")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-01T10:00:05.123+08:00",
        "2026-11-01T10:00:05.1234567+08:00",
        "2026-11-01T23:59:60.5Z",
        "9999-12-31T23:59:59.999999Z",
        "2026-11-01T10:00:05.+08:00",
        "2026-11-01T10:00:05.٣+08:00",
        "2026-11-01T10:00:05.12",
        "9999-12-31T23:59:60.5Z",
        "2026-11-01T23:59:59+08:00",
        "2026-11-01t23:59:59z",
        "2026-11-01T23:59:60Z",
        "2026-11-01T23:60:00Z",
        "2026-11-01T24:00:01Z",
        "2026-11-01T10:00:05+08:00 ",
        "2026-11-01 10:00:05+08:00",
        "2026-02-29T10:00:05+08:00",
        # The hour is within the calendar and the second isn't, and the other way round.
        "9999-12-31T23:45:00-00:30",
        "0001-01-01T00:45:00+00:30",
        "0001-01-01T00:15:00+00:30",
        "",
    ],
)
def test_what_is_put_aside_of_an_instant_gives_the_same_instant_or_refusal(text: str) -> None:
    def outcome(parse: Callable[[str], int]) -> int | str:
        try:
            return parse(text)
        except ValueError as error:
            return str(error)

    assert outcome(CallsParsed().instants.__getitem__) == outcome(parse_instant)


LIMITS = [
    *((topic, "account_id", 512) for topic in ("call-records", "recharges", "accounts")),
    ("call-records", "call_id", 512),
    ("call-records", "line_id", 512),
    ("call-records", "phone", 128),
    ("recharges", "recharge_id", 512),
    ("announcements", "announcement_id", 512),
    ("announcements", "kind", 512),
    ("announcements", "title", 2_048),
    ("announcements", "content", 524_288),
    ("accounts", "name", 2_048),
    ("accounts", "openid", 128),
    ("accounts", "phone", 128),
    ("notifications", "account_id", 512),
    ("notifications", "notification_id", 64),
    ("notifications", "scenario", 512),
    ("notifications", "title", 2_048),
    ("notifications", "content", 65_536),
    ("notifications", "openid", 128),
    ("notifications", "template_id", 512),
    ("notifications", "url", 2_048),
    ("notifications", "app_id", 512),
    ("notifications", "page_path", 2_048),
]
KEYS = {"call-records": "account_id", "recharges": "account_id", "accounts": "account_id"}
KEYS |= {"announcements": "announcement_id", "notifications": "account_id"}


def of_length(topic: str, field: str, text: str) -> Any:
    value = TOPICS[topic][1].value | {field: text}
    return decode(topic, json.dumps(value, ensure_ascii=False).encode(), value[KEYS[topic]])


@pytest.mark.parametrize(("topic", "field", "most"), LIMITS)
def test_a_text_may_have_so_many_bytes_and_not_one_more(topic: str, field: str, most: int) -> None:
    of_length(topic, field, "x" * most)
    for text in ("x" * (most + 1), "x" * (most - 2) + "云"):  # 3 bytes in UTF-8
        if field == "notification_id" and not text.isascii():
            continue
        with pytest.raises(InvalidRecordError, match=f"^{field}: has more than {most} bytes$"):
            of_length(topic, field, text)


@pytest.mark.parametrize(
    ("data", "is_valid"),
    [
        ({"k1": "x" * 32_766, "k2": "x" * 32_766}, True),  # 2 * (2 + 32,766) = 65,536
        ({"k1": "x" * 32_766, "k2": "x" * 32_767}, False),
    ],
)
def test_the_data_of_a_command_is_limited_in_all(data: dict[str, str], is_valid: bool) -> None:
    value = COMMAND | {"channel": "wechat", "data": data}
    raw = json.dumps(value).encode()
    if is_valid:
        decode("notifications", raw)
    else:
        with pytest.raises(InvalidRecordError, match="data: has more than 65536 bytes"):
            decode("notifications", raw)


@pytest.mark.parametrize(
    ("field", "text", "is_valid"),
    [
        ("phone", "1" * 128, True),
        ("phone", "1" * 129, False),
        ("call_id", "x" * 512, True),
        ("call_id", "x" * 513, False),
        ("line_id", "云" * 170, True),  # 510 bytes
        ("line_id", "云" * 171, False),
        ("error", "x" * 100_000, True),  # nothing comes of it
    ],
)
def test_calls_of_one_poll_are_held_to_the_same_limits(
    field: str, text: str, is_valid: bool
) -> None:
    drive = Drive()
    drive.take([call("acme", 0, **{field: text})])
    assert drive.reasons() == ([] if is_valid else [f"{field}: has more than {_most(field)} bytes"])


def _most(field: str) -> int:
    return {"phone": 128}.get(field, 512)


def test_a_deletion_counts_whatever_its_keys_length() -> None:
    assert decode("accounts", None, "x" * 100_000) is None

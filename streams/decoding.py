"""From bytes to records: every check that needs one record only, and the reason if one fails.

A check that needs memory (a batch whose size changed) is in the rules. Longer than most modules:
the checks of all records stand together, so that one sees they are alike. No state, no clients.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from streams.records import Account, Announcement, Call, Notification, Recharge, Tick, encode
from streams.times import HOUR, SECOND, parse_instant, parse_money

_MAX_MEMO = 50_000
_LONGEST_MEMO = 64  # characters: a time may have a million digits behind the second

# The longest texts, in bytes of UTF-8: so that whatever is made of a valid record has room for it.
_ID, _PERSON, _LINE_OF_TEXT, _TEXT, _LONG_TEXT = 512, 128, 2_048, 65_536, 524_288
_Limits = tuple[tuple[str, int], ...]
_OF_CALL: _Limits = (
    ("call_id", _ID),
    ("account_id", _ID),
    ("line_id", _ID),
    ("phone", _PERSON),
)
_OF_RECHARGE: _Limits = (("recharge_id", _ID), ("account_id", _ID))
_OF_ANNOUNCEMENT: _Limits = (
    ("announcement_id", _ID),
    ("kind", _ID),
    ("title", _LINE_OF_TEXT),
    ("content", _LONG_TEXT),
)
_OF_ACCOUNT: _Limits = (
    ("account_id", _ID),
    ("name", _LINE_OF_TEXT),
    ("openid", _PERSON),
    ("phone", _PERSON),
)
_OF_SHORT_COMMAND: _Limits = (("notification_id", 64), ("openid", _PERSON))
_OF_COMMAND: _Limits = (
    ("notification_id", 64),
    ("scenario", _ID),
    ("account_id", _ID),
    ("title", _LINE_OF_TEXT),
    ("content", _TEXT),
    ("openid", _PERSON),
    ("template_id", _ID),
    ("url", _LINE_OF_TEXT),
    ("app_id", _ID),
    ("page_path", _LINE_OF_TEXT),
)


class InvalidRecordError(ValueError):
    """A record that the contract calls invalid. The text names the field and what is wrong."""


class _ForeignNotification(Notification, omit_defaults=True, gc=False):
    """A command as other systems may write it: without the fields that its channel doesn't use."""

    # Unset or none until `decode_notification` has looked at the channel.
    title: str | UnsetType | None = UNSET  # type: ignore[assignment]
    content: str | UnsetType | None = UNSET  # type: ignore[assignment]
    page: str | None = None
    cause: dict[str, Any] | UnsetType | None = UNSET  # type: ignore[assignment]


class _Cause(msgspec.Struct, gc=False):
    """A command's cause as its bytes."""

    cause: msgspec.Raw


class Parsed(dict[str, int]):
    """A bounded cache, text → number: the calls of a batch share a time, and seconds repeat.

    Looking up a text that can't be parsed raises ValueError.
    """

    def __init__(self, parse: Callable[[str], int]) -> None:
        super().__init__()
        self._parse = parse

    def __missing__(self, text: str) -> int:
        number = self._parse(text)
        if len(text) > _LONGEST_MEMO:
            return number
        if len(self) >= _MAX_MEMO:
            self.clear()
        self[text] = number
        return number


class KeyAndValue(Protocol):
    """The fields of a Kafka record that decoding reads."""

    key: bytes | None
    value: bytes | None


R = TypeVar("R", bound=KeyAndValue)


# Minutes and seconds as they are written; a leap second is left to `parse_instant`.
_IN_HOUR = {
    f":{second // 60:02d}:{second % 60:02d}": second * SECOND for second in range(HOUR // SECOND)
}
# In these years a whole hour may be out of range although a part of it is not.
_ENDS_OF_TIME = {"0001", "9999"}


class CallsParsed:
    """The cache of parsed times, kept from call to call. (Balances hardly repeat.)"""

    def __init__(self) -> None:
        self.instants = Parsed(self._parse_instant)
        self._hours = Parsed(lambda hour: parse_instant(f"{hour[:13]}:00:00{hour[13:]}"))

    def _parse_instant(self, text: str) -> int:
        """Parse a time by looking up its hour alone: fractions of a second hardly repeat, nor do
        seconds where each call has a batch of its own."""
        zone = -1 if text[-1:] in {"Z", "z"} else -6
        fraction = text[20:zone]
        if text[19:20] == "." and fraction.isdecimal() and len(fraction) <= 6 and text.isascii():
            return self.instants[text[:19] + text[zone:]] + int(fraction.ljust(6, "0"))
        in_hour = _IN_HOUR.get(text[13:19])
        if in_hour is None or text[:4] in _ENDS_OF_TIME:
            return parse_instant(text)
        return self._hours[text[:13] + text[19:]] + in_hour


_call_decoder = msgspec.json.Decoder(Call)
_recharge_decoder = msgspec.json.Decoder(Recharge)
_announcement_decoder = msgspec.json.Decoder(Announcement)
_account_decoder = msgspec.json.Decoder(Account)
_tick_decoder = msgspec.json.Decoder(Tick)


def _float(number: str) -> float:
    """Return a number of a command's `cause`. msgspec itself takes 14 µs for one such as 1e300:
    a command full of them would keep a worker busy for longer than its session lasts."""
    parsed = float(number)
    if math.isinf(parsed):
        raise ValueError("number out of range")
    return parsed


_notification_decoder = msgspec.json.Decoder(_ForeignNotification, float_hook=_float)
_cause_decoder = msgspec.json.Decoder(_Cause)

_occurred = Parsed(parse_instant)
"""All commands of one alert, or of one announcement, have the same time."""

_AT_PATH = re.compile(r"(.*?)(?: - at `(?:key in )?\$(?:\.(.*))?`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `([^`]*)`")


def decode_value(decoder: "msgspec.json.Decoder[Any]", value: bytes | None) -> Any:
    """Return a value as the decoder's type, where it is strict JSON in UTF-8 and has the fields.

    Fields that the type doesn't have are ignored. Raises InvalidRecordError.
    """
    if value is None:
        raise InvalidRecordError("value: is missing")
    try:
        record = decoder.decode(value)
        # msgspec doesn't check the strings of fields that it skips.
        if not value.isascii():
            value.decode()
    except msgspec.ValidationError as error:
        raise InvalidRecordError(_field_reason(str(error))) from None
    except RecursionError:
        raise InvalidRecordError("value: is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise InvalidRecordError(f"value: is not strict JSON in UTF-8: {error}") from None
    except msgspec.DecodeError as error:
        record = _decode_slowly(decoder, value)
        if record is None:
            raise InvalidRecordError(f"value: is not strict JSON in UTF-8: {error}") from None
    return record


def _decode_slowly(decoder: "msgspec.json.Decoder[Any]", value: bytes) -> Any | None:
    """Return a record whose JSON is valid although msgspec refuses it; None: it is invalid.

    The case is an escaped half of a surrogate pair: a text that was cut in the middle of an emoji.
    In a field that we ignore it doesn't make the record invalid. In one of our fields it does,
    because UTF-8 can't carry it.
    """
    try:
        # The numbers of unknown fields don't matter, nor how long they are.
        plain = json.loads(value.decode(), parse_constant=_refuse_constant, parse_int=_int_or_float)
    except (ValueError, RecursionError):
        return None
    if isinstance(plain, dict):
        names = decoder.type.__struct_fields__
        plain = {name: plain[name] for name in names if name in plain}
        for name, content in plain.items():
            try:
                encode(content)
            except UnicodeEncodeError:
                raise InvalidRecordError(f"{name}: has half a surrogate pair") from None
            except RecursionError:
                raise InvalidRecordError(f"{name}: is nested too deeply") from None
            try:
                json.dumps(content, allow_nan=False)
            except ValueError:  # 1e400 is infinite here, and msgspec refuses it
                raise InvalidRecordError(f"{name}: number out of range") from None
    try:
        return msgspec.convert(plain, decoder.type)
    except msgspec.ValidationError as error:
        raise InvalidRecordError(_field_reason(str(error))) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _int_or_float(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # it has more digits than Python takes, and msgspec
        return math.inf


def _field_reason(message: str) -> str:
    """Return msgspec's message in the contract's order: first the field, then what is wrong."""
    shape = _AT_PATH.fullmatch(message)
    text, path = (shape[1], shape[2]) if shape else (message, None)
    missing = _MISSING.match(text)
    if missing:
        return f"{path + '.' if path else ''}{missing[1]}: is missing"
    return f"{path or 'value'}: {text[:1].lower()}{text[1:]}"


def _check_key(key: bytes | None, field: str, expected: str) -> None:
    if key != expected.encode():
        raise InvalidRecordError(f"key: is not the record's {field}")


def _check_lengths(record: Any, limits: _Limits) -> None:
    for field, most in limits:
        text = getattr(record, field)
        if not text:  # none, or left out
            continue
        if len(text) > most or (len(text) * 4 > most and len(text.encode()) > most):
            raise InvalidRecordError(f"{field}: has more than {most} bytes")


def _check(field: str, parse: Any, text: str) -> int:
    try:
        return int(parse(text))
    except ValueError as error:
        raise InvalidRecordError(f"{field}: {error}") from None


def decode_call(key: bytes | None, value: bytes | None) -> Call:
    """Return a call that passes all checks that need no memory. Raises InvalidRecordError."""
    call: Call = decode_value(_call_decoder, value)
    _check_lengths(call, _OF_CALL)
    _check_key(key, "account_id", call.account_id)
    if call.batch_index >= call.batch_size:
        raise InvalidRecordError(
            f"batch_index: {call.batch_index} is not below batch_size {call.batch_size}"
        )
    _check("submitted_at", parse_instant, call.submitted_at)
    _check("ended_at", parse_instant, call.ended_at)
    if call.balance is not None:
        _check("balance", parse_money, call.balance)
    return call


def valid_calls(
    records: Iterable[R],
    parsed: CallsParsed,
    on_invalid: Callable[[R, str], None],
) -> Iterator[tuple[R, bytes, Call, int, int, int | None]]:
    """Yield each valid call with its record, its key, the instants of `submitted_at` and
    `ended_at`, and `balance` in fen; the others go to `on_invalid` with the reason.

    Millions of calls go through here. So the checks are inline, and `decode_call` is called only
    for a record that fails one of them.
    """
    decode, instants = _call_decoder.decode, parsed.instants
    for record in records:
        key, value = record.key, record.value
        try:
            call = decode(value)  # type: ignore[arg-type]  # None is refused like rubbish
            submitted, ended = instants[call.submitted_at], instants[call.ended_at]
            balance = None if call.balance is None else parse_money(call.balance)
            if (
                key == call.account_id.encode()
                and call.batch_index < call.batch_size
                # msgspec doesn't check the bytes that it skips.
                # No text is longer than its record; most records are shorter than an id may be.
                and (
                    (len(value) <= _ID and len(call.phone) <= _PERSON // 4)  # type: ignore[arg-type]
                    or _is_short(call)
                )
                and (value.isascii() or value.decode())  # type: ignore[union-attr]
            ):
                yield record, key, call, submitted, ended, balance
                continue
        except (msgspec.MsgspecError, ValueError, RecursionError, TypeError):
            pass
        try:
            call = decode_call(key, value)
        except InvalidRecordError as error:
            on_invalid(record, str(error))
        else:
            submitted, ended = instants[call.submitted_at], instants[call.ended_at]
            balance = None if call.balance is None else parse_money(call.balance)
            yield record, call.account_id.encode(), call, submitted, ended, balance


def _is_short(call: Call) -> bool:
    """Is every text of a call short enough for sure? Counts characters: the caller looks again at
    what this refuses, in bytes."""
    longest = _ID // 4
    return (
        len(call.call_id) <= longest
        and len(call.account_id) <= longest
        and len(call.line_id) <= longest
        and len(call.phone) <= _PERSON // 4
    )


def decode_recharge(key: bytes | None, value: bytes | None) -> Recharge:
    """Return a valid recharge. Raises InvalidRecordError."""
    recharge: Recharge = decode_value(_recharge_decoder, value)
    _check_lengths(recharge, _OF_RECHARGE)
    _check_key(key, "account_id", recharge.account_id)
    if _check("amount", parse_money, recharge.amount) <= 0:
        raise InvalidRecordError("amount: is not above 0")
    _check("balance", parse_money, recharge.balance)
    _check("completed_at", parse_instant, recharge.completed_at)
    return recharge


def decode_announcement(key: bytes | None, value: bytes | None) -> Announcement:
    """Return a valid announcement. Raises InvalidRecordError."""
    announcement: Announcement = decode_value(_announcement_decoder, value)
    _check_lengths(announcement, _OF_ANNOUNCEMENT)
    _check_key(key, "announcement_id", announcement.announcement_id)
    _check("published_at", parse_instant, announcement.published_at)
    return announcement


def decode_account(key: bytes | None, value: bytes | None) -> Account | None:
    """Return a valid account; None: it was deleted. Raises InvalidRecordError."""
    if value is None:
        if key is None:
            raise InvalidRecordError("key: is missing")
        try:
            key.decode()
        except UnicodeDecodeError:
            raise InvalidRecordError("key: is not UTF-8") from None
        return None
    account: Account = decode_value(_account_decoder, value)
    _check_lengths(account, _OF_ACCOUNT)
    _check_key(key, "account_id", account.account_id)
    if account.balance_threshold is not None:
        _check("balance_threshold", parse_money, account.balance_threshold)
    if account.expires_at is not None:
        _check("expires_at", parse_instant, account.expires_at)
    return account


def decode_tick(key: bytes | None, value: bytes | None) -> int:
    """Return the instant of a valid tick, which has no key. Raises InvalidRecordError."""
    tick: Tick = decode_value(_tick_decoder, value)
    if key is not None:
        raise InvalidRecordError("key: a tick has none")
    return _check("at", parse_instant, tick.at)


def decode_notification(key: bytes | None, value: bytes | None) -> Notification:
    """Return a valid command, ours or another system's. Raises InvalidRecordError."""
    command: _ForeignNotification = decode_value(_notification_decoder, value)
    # No text is longer than its record, and most records are shorter than most texts may be.
    is_short = value is not None and len(value) <= _ID
    _check_lengths(command, _OF_SHORT_COMMAND if is_short else _OF_COMMAND)
    data = command.data
    if data and sum(len(name.encode()) + len(said.encode()) for name, said in data.items()) > _TEXT:
        raise InvalidRecordError(f"data: has more than {_TEXT} bytes")
    _check("occurred_at", _occurred.__getitem__, command.occurred_at)
    if command.account_id is not None:
        _check_key(key, "account_id", command.account_id)
    elif command.channel != "wechat" or not command.openid:
        raise InvalidRecordError("account_id: is null, which only wechat with an openid may have")
    if not command.notification_id.isascii():
        raise InvalidRecordError("notification_id: is not ASCII")
    _fill_what_is_left_out(command)
    return command


def cause_as_it_came(value: bytes | None, command: Notification) -> Any:
    """Return the `cause` of a valid command for another record. A long one is encoded as it stands
    in the `value`: from Python's numbers it could become some times as long."""
    if value is None or len(value) <= _TEXT:
        return command.cause
    try:
        return _cause_decoder.decode(value).cause
    except msgspec.DecodeError:  # a case for `_decode_slowly`
        return command.cause


def _fill_what_is_left_out(command: _ForeignNotification) -> None:
    """Check that a command has the texts that its channel needs; give the others a default."""
    has_data = command.channel == "wechat" and command.data is not None
    if command.title is UNSET or command.title is None:
        if command.channel != "sms" and not has_data:
            raise InvalidRecordError(f"title: {_lack_of(command.title)}")
        command.title = ""
    if command.content is UNSET or not command.content:
        if not has_data:
            raise InvalidRecordError(f"content: {_lack_of(command.content)}")
        command.content = ""
    if command.cause is UNSET or command.cause is None:
        if command.channel == "inbox":
            raise InvalidRecordError(f"cause: {_lack_of(command.cause)}")
        command.cause = {}


def _lack_of(content: object) -> str:
    if content is UNSET:
        return "is missing"
    return "is null" if content is None else "is empty"

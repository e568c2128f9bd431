"""The six values of our messages under the account's own field names, and which values fit a field.

A field's kind is its name without the number (`thing1`, `time4`). WeChat refuses a value that
doesn't fit the kind (47003), but the official test account accepts it: so it is checked here. Only
a `thing` is shortened and made one line; half a phone number would be worse than none. Fields of
old templates (`first`, `keyword1`) have no kind and no limits.
"""

import re
from collections.abc import Mapping, Sequence

_THING_LENGTH = 20

_HAN = "[\u3400-\u9fff\U00020000-\U0003ffff]"
# Letters of any script, and the characters between the parts of a name.
_OF_NAMES = r"(?:[^\W\d_]|[ .·•'’()（）&,，、-])"
_LINE_BREAKS = re.compile(r"[\t-\r\x1c-\x1e\x85\u2028\u2029]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_KINDS: Mapping[str, re.Pattern[str]] = {
    "number": re.compile(r"(?=.{1,32}$)-?\d+(?:\.\d+)?", re.ASCII),
    "letter": re.compile(r"[A-Za-z]{1,32}"),
    "symbol": re.compile(r"[^\w\s]{1,5}"),
    "character_string": re.compile(r"[\x20-\x7e]{1,32}"),
    "time": re.compile(r"[\d年月日时分秒:：/\-.~ T]{1,64}", re.ASCII),
    "date": re.compile(r"[\d年月日时分秒:：/\-.~ T]{1,64}", re.ASCII),
    "amount": re.compile(r"[^\w\s.]?\d{1,10}(?:\.\d+)?元?", re.ASCII),
    "phone_number": re.compile(r"[\d+\-() #*]{1,17}", re.ASCII),
    "car_number": re.compile(r"\S{1,8}"),
    # At most ten characters if one of them is Han (A公司, 张三Tom), else twenty.
    "name": re.compile(f"(?=.*{_HAN}){_OF_NAMES}{{1,10}}|(?!.*{_HAN}){_OF_NAMES}{{1,20}}"),
    "phrase": re.compile(r"[\u3400-\u9fff]{1,5}"),
    "enum": re.compile(r".{1,20}"),
    "const": re.compile(r".{1,20}"),
}
_KIND = re.compile(r"([a-z_]+?)\d*")


class UnfitFieldError(ValueError):
    """WeChat would refuse a value. The text names the field, never the value."""


def parse_fields(setting: str) -> tuple[str, ...]:
    """Return the account's names of the six template fields; an empty name: the field is left out.

    Raises ValueError where there aren't six.
    """
    names = tuple(name.strip() for name in setting.split(","))
    if len(names) != 6:
        raise ValueError(f"has {len(names)} names, not six")
    return names


def fill(names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Return the template's data: name → value, without the fields whose name is empty."""
    return {name: value for name, value in zip(names, values, strict=True) if name}


def fit(data: Mapping[str, str]) -> dict[str, str]:
    """Return the data with every value as WeChat accepts it. Raises UnfitFieldError."""
    return {name: _fit_one(name, value) for name, value in data.items()}


def _fit_one(name: str, value: str) -> str:
    if name.startswith("thing"):
        value = _CONTROLS.sub("", _LINE_BREAKS.sub(" ", value))
        return value if len(value) <= _THING_LENGTH else f"{value[: _THING_LENGTH - 1]}…"
    kind = _KIND.fullmatch(name)
    pattern = _KINDS.get(kind[1]) if kind else None
    if pattern is not None and (pattern.fullmatch(value) is None or _CONTROLS.search(value)):
        raise UnfitFieldError(f"data.{name}: does not fit the kind {kind[1] if kind else ''}")
    return value

"""Money as records spell it: what is looked at fast is what the contract takes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.times import parse_money

CONTRACT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,2})?")


@pytest.mark.parametrize(
    ("text", "fen"),
    [("0.00", 0), ("1.5", 150), ("12", 1200), ("-0.01", -1), ("-12.30", -1230),
     ("007.00", 700), ("123456789012345.67", 12345678901234567)],
)  # fmt: skip
def test_money_is_read(text: str, fen: int) -> None:
    assert parse_money(text) == fen


@given(
    st.text("0123456789.-+_ \n٣e", max_size=20)
    | st.from_regex(re.compile(r"-?[0-9]{0,17}\.?[0-9٣_ ]{0,3}"), fullmatch=True)
)
def test_what_is_no_money_is_refused(text: str) -> None:
    if CONTRACT.fullmatch(text):
        yuan, _, fen = text.lstrip("-").partition(".")
        assert abs(parse_money(text)) == int(yuan) * 100 + int((fen + "00")[:2])
    else:
        with pytest.raises(ValueError, match="is no money"):
            parse_money(text)

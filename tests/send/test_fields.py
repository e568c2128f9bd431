"""The six fields under the account's names, and what fits each keyword kind."""

import pytest

from app.channels.wechat.fields import UnfitFieldError, fill, fit, parse_fields

VALUES = ["你好！", "甲", "任务完成", "内容", "2019-01-30 15:52:10", "通知结束"]


def test_an_empty_name_is_left_out() -> None:
    names = parse_fields(",thing1,thing2,thing3,time4,")
    assert fill(names, VALUES) == {
        "thing1": "甲",
        "thing2": "任务完成",
        "thing3": "内容",
        "time4": "2019-01-30 15:52:10",
    }


def test_there_are_six_names() -> None:
    with pytest.raises(ValueError, match="has 5 names, not six"):
        parse_fields("a,b,c,d,e")


def test_a_thing_takes_twenty_characters_and_a_longer_one_is_cut_to_nineteen_and_an_ellipsis() -> (
    None
):
    assert fit({"thing1": "字" * 20}) == {"thing1": "字" * 20}
    assert fit({"thing12": "字" * 21}) == {"thing12": "字" * 19 + "…"}
    assert fit({"things_of_mine": "字" * 21}) == {"things_of_mine": "字" * 19 + "…"}


def test_a_thing_is_one_line_without_control_characters() -> None:
    assert fit({"thing1": "甲\r\n乙\t丙\u2028丁\x00\x1b\x7f戊\x85"}) == {"thing1": "甲 乙 丙 丁戊 "}
    # Cut is what is left of it.
    assert fit({"thing1": "\x00" * 30 + "字" * 20}) == {"thing1": "字" * 20}


def test_names_of_old_templates_have_no_limits() -> None:
    data = {"first": "字" * 100, "keyword1": "字" * 100, "remark": ""}
    assert fit(data) == data


@pytest.mark.parametrize(
    ("name", "fits", "does_not"),
    [
        ("number1", ["1", "3.14", "1" * 32], ["", "一", "1" * 33, "1.", "١"]),
        ("letter2", ["abc"], ["abc1", "字", "a" * 33]),
        ("symbol3", ["+-*"], ["a", "+" * 6]),
        ("character_string4", ["C-2019/01", "a" * 32], ["中", "a" * 33, ""]),
        ("time5", ["15:01", "2019年10月1日 15:01", "2019-01-30 15:52:10"], ["明天", ""]),
        ("date6", ["2019年10月1日", "2019-01-30"], ["soon"]),
        ("amount7", ["￥50.00", "50", "50.00元"], ["五十", "1" * 11]),
        ("phone_number8", ["+86-0755-26290001", "13800000000"], ["1" * 18, "一"]),
        ("car_number9", ["粤A8Z888挂"], ["粤A8Z888挂挂挂"]),
        (
            "name10",
            ["张三", "Zhang San", "A公司", "张三Tom", "张三Tommy·李", "𠮷野家", "a" * 20, "O'Neil"],
            ["张" * 11, "a" * 21, "张" + "a" * 10, "张三\n", "张\x00三", "张3", ""],
        ),
        ("phrase11", ["任务完成"], ["连续未接通警报", "done"]),
        ("const12", ["已完成"], ["字" * 21]),
        ("enum13", ["已完成"], ["字" * 21, "已\x1b完成"]),
        ("short_thing14", ["whatever" * 9], []),
    ],
)
def test_other_kinds_fit_or_are_refused_by_name(
    name: str, fits: list[str], does_not: list[str]
) -> None:
    for value in fits:
        assert fit({name: value}) == {name: value}
    for value in does_not:
        with pytest.raises(UnfitFieldError, match=f"^data.{name}: does not fit the kind"):
            fit({name: value})

"""Template messages as they read: WeChat fills a template's own text in, field by field."""

import re
from collections.abc import Iterable, Mapping

PLATFORM_TEMPLATE = """{{first.DATA}}
客户名称：{{keyword1.DATA}}
客服类型：{{keyword2.DATA}}
提醒内容：{{keyword3.DATA}}
通知时间：{{keyword4.DATA}}
{{remark.DATA}}"""
"""The platform's template, as its official account has it."""

_FIELD = re.compile(r"\{\{(\w+)\.DATA\}\}")


def filled(text: str, data: Mapping[str, str]) -> str:
    """Return what the customer reads. A field that isn't given is empty; one that the text doesn't
    have isn't shown."""
    return _FIELD.sub(lambda field: data.get(field[1], ""), text)


def text_of_fields(names: Iterable[str]) -> str:
    """Return the text of a template of which only the fields are known."""
    return "\n".join(f"{{{{{name}.DATA}}}}" for name in names)

"""The texts of template messages: WeChat puts the fields into the template's text."""

import re
from collections.abc import Iterable, Mapping

PLATFORM_TEMPLATE = """{{first.DATA}}
客户名称：{{keyword1.DATA}}
客服类型：{{keyword2.DATA}}
提醒内容：{{keyword3.DATA}}
通知时间：{{keyword4.DATA}}
{{remark.DATA}}"""
"""The platform's template, as in its official account."""

_FIELD = re.compile(r"\{\{(\w+)\.DATA\}\}")


def filled(text: str, data: Mapping[str, str]) -> str:
    """Return the text that the customer reads. Fields without data are empty; data without a field
    in the text isn't shown."""
    return _FIELD.sub(lambda field: data.get(field[1], ""), text)


def text_of_fields(names: Iterable[str]) -> str:
    """Return a text for a template of which only the fields are known: a line for each."""
    return "\n".join(f"{{{{{name}.DATA}}}}" for name in names)

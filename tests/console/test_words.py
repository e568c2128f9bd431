"""Every word of a page has both languages."""

import re
from pathlib import Path

from app.console import words
from app.console.words import ZH, chosen_language, translator

FOLDER = Path(words.__file__).parent
SAID = re.compile(r"""\bt\((?:"([^"]+)"|'([^']+)')\)""")


def said() -> set[str]:
    files = [*FOLDER.glob("templates/*.html"), FOLDER / "views.py"]
    return {first or second for file in files for first, second in SAID.findall(file.read_text())}


def test_every_word_of_a_page_has_a_chinese_one() -> None:
    missing = {word for word in said() if translator("zh")(word) == word} - {"openid"}
    assert missing == set()
    assert len(said()) > 50


def test_no_word_is_kept_that_no_page_says() -> None:
    pages = "".join(file.read_text() for file in FOLDER.rglob("*.html"))
    pages += (FOLDER / "views.py").read_text()
    assert [word for word in ZH if word not in pages] == []


def test_a_choice_goes_before_what_the_browser_asks_for() -> None:
    assert chosen_language(None, "zh-CN,zh;q=0.9,en;q=0.8") == "zh"
    assert chosen_language(None, "fr, en;q=0.5, zh;q=0.4") == "en"
    assert chosen_language(None, "") == "en"
    assert chosen_language("en", "zh-CN") == "en"
    assert chosen_language("<x>", "zh-TW") == "zh"

"""`docs/contract.md` says what the code does: its tables are held against the code's."""

import re
from pathlib import Path

import msgspec
import pytest

from app.describe import RECORDS
from app.settings import PREFIX, Settings, load_settings, variable
from streams.records import SCENARIOS
from streams.topics import ContractTopic
from tables.texts import DEFAULT_CHANNELS, PAGES

PAGE = (Path(__file__).parent.parent.parent / "docs" / "contract.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = PAGE[PAGE.index(f"## {heading}") :]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    lines = table[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def documented_settings() -> dict[str, str]:
    """Each variable of the table with the text of its default."""
    found = {}
    for names, default, *_ in rows("Settings"):
        first, *others = re.findall(r"`(\w+)`", names)
        short = first
        is_none = default.startswith(("none", "required", "empty")) or not default
        defaults = [] if is_none else re.findall(r"`([^`]*)`", default)
        for index, name in enumerate([first, *others]):
            full = name
            if name.startswith("_"):
                # `_SASL_MECHANISM` after `DIALWATCH_KAFKA_SECURITY_PROTOCOL`: the longest
                # beginning of the first that makes a setting of it.
                full = next(
                    candidate
                    for end in range(len(short), len(PREFIX) - 2, -1)
                    if (candidate := short[:end].rstrip("_") + name).removeprefix(PREFIX).lower()
                    in Settings.model_fields
                )
            found[full] = defaults[index] if index < len(defaults) else ""
    return found


def test_every_setting_is_documented_and_every_documented_one_is_a_setting() -> None:
    assert set(documented_settings()) == {variable(name) for name in Settings.model_fields}


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_documented_default_is_the_default(name: str) -> None:
    said = documented_settings()[variable(name)]
    shown = load_settings().shown()[variable(name)]
    if not said:
        assert shown == ""
    elif shown != "***":
        assert str(Path(shown)) == str(Path(said)) or float(shown) == float(said)


def test_every_topic_is_documented() -> None:
    headings = set(re.findall(r"^### `([\w-]+)`", PAGE, re.MULTILINE))
    assert headings == {topic.value for topic in ContractTopic}


@pytest.mark.parametrize("topic", sorted(RECORDS))
def test_every_field_of_a_record_is_documented(topic: str) -> None:
    section = PAGE[PAGE.index(f"### `{topic}`") :]
    section = section[: section.index("\n## ") if "\n## " in section else None]
    section = re.split(r"\n### ", section[4:])[0]
    for field in msgspec.structs.fields(RECORDS[ContractTopic(topic)]):
        assert re.search(rf"[`\"]{field.name}[`\"]", section), field.name


def test_the_scenarios_and_their_default_channels_are_documented() -> None:
    documented = {
        name.strip("`"): tuple(channels.split(", "))
        for name, _, channels in rows("What is noticed")
    }
    assert documented == DEFAULT_CHANNELS
    assert set(documented) == set(SCENARIOS)


def test_the_texts_name_each_scenario_with_its_page() -> None:
    documented = {row[0].strip("`"): row[4].strip("`") for row in rows("Texts")}
    assert documented == PAGES

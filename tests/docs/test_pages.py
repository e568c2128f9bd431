"""The pages lead where they say, and the commands on them are the program's."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from app.cli import program

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_leads_to_every_page() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    for name in NAMES[1:]:
        assert f"({name})" in readme, name


def commands(page: Path) -> list[list[str]]:
    """The words of each `dialwatch` line in a page's shell blocks."""
    text = page.read_text(encoding="utf-8")
    return [
        shlex.split(line.split(" | ")[0], comments=True)
        for block in re.findall(r"^ *```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if re.match(r" *(?:\S+=\S+ )*(?:\.venv/bin/)?dialwatch ", line)
    ]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_has_its_options(page: Path) -> None:
    for words in commands(page):
        while "dialwatch" not in words[0] or "=" in words[0]:
            words.pop(0)
        command = typer.main.get_command(program)
        left = words[1:]
        while left and left[0] in getattr(command, "commands", {}):
            command = command.commands[left.pop(0)]  # type: ignore[attr-defined]
        assert not getattr(command, "commands", None), words
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        used = {word.split("=")[0] for word in left if word.startswith("--")}
        assert used <= known | {"--help"}, words

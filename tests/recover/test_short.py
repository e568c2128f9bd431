"""The short form of `make test-recover`: the acts that say most, with few calls; and the page that
they try."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.stack import Stack
from tests.recover.acts import ACTS
from tests.recover.world import World

SHORT = ("restored-backup", "another-cluster", "forgotten-on-purpose")
PAGE = (Path(__file__).parents[2] / "docs" / "recover.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: its broker is lost."""
    with Stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


@pytest.mark.broker
@pytest.mark.parametrize("name", SHORT)
async def test_what_is_lost_or_moved_tells_nobody_twice(
    name: str, stack: Stack, tmp_path: Path
) -> None:
    await World(stack, tmp_path, 1, calls=60).act(ACTS[name], has_topics=True)


def test_each_act_of_the_page_is_tried_and_each_that_is_tried_is_on_the_page() -> None:
    said = re.findall(r"\*Acts? (.*?)\.?\*", PAGE, re.IGNORECASE)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(said))) == ACTS.keys()

"""The short form of the fault suite: the most telling faults, once each.

The long form with all faults and many seeds is `make test-faults`. It also holds how long a
takeover takes against a narrow limit, which on a busy machine says nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.stack import Stack
from tests.faults.suite import FAULTS, Round

SEED = 1
SHORT = (
    "crash-before-commit",
    "freeze-at-random",
    "crash-during-send",
    "freeze-before-offsets",
    "refused-produce",
    "kill-broker",
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack of its own: its broker is killed."""
    with Stack() as made:
        yield made


@pytest.mark.broker
@pytest.mark.parametrize("name", SHORT)
async def test_nothing_is_lost_and_nothing_comes_twice(
    name: str, stack: Stack, tmp_path: Path
) -> None:
    round_ = Round(stack, tmp_path, SEED, calls=600, turns=1, pause_limit_s=60.0)
    await round_.run(FAULTS[name].strike)

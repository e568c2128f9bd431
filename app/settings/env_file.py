"""Reading `.env`: our variables as they stand there, and the lines that can't be read.

Nothing is put in for `${…}`: a secret may hold it, and other programs' variables count for nothing.
"""

import re
from pathlib import Path

from dotenv.parser import Binding, parse_stream

PREFIX = "DIALWATCH_"
# Where a quote isn't closed, a value goes on until the next one, over other variables.
_SWALLOWED = re.compile(rf"\n[^\S\n]*(?:export\s+)?{PREFIX}\w+\s*=")


def read_env_file(file: Path) -> tuple[dict[str, str], list[str]]:
    """Return the variables of the file, none where there is no file, and a line for people for each
    mistake. These never show what stands there: it may be a secret."""
    variables: dict[str, str] = {}
    mistakes: list[str] = []
    try:
        if not file.is_file() and not file.is_fifo():
            return {}, []
        with file.open(encoding="utf-8-sig") as stream:
            for binding in parse_stream(stream):
                if _is_unreadable(binding):
                    mistakes.append(
                        f"{file.name}: line {_line_of(binding)} can't be read: it must be "
                        "NAME=value, and a quote that opens must be closed"
                    )
                elif binding.key is not None and binding.value is not None:
                    variables[binding.key] = binding.value
    except UnicodeDecodeError:
        return {}, [f"{file.name}: must be UTF-8 text"]
    except OSError as error:
        return {}, [f"{file.name}: must be a readable file ({error.strerror})"]
    return variables, mistakes


def _is_unreadable(binding: Binding) -> bool:
    """Is this what was meant as a variable of ours, and isn't one?"""
    text = binding.original.string.lstrip()
    if binding.error:
        return PREFIX in text
    # `NAME: value` and the like. A name alone sets nothing, as in Docker's files.
    is_no_name = binding.value is None and not (binding.key or "x").isidentifier()
    return (is_no_name and PREFIX in text) or _SWALLOWED.search(text) is not None


def _line_of(binding: Binding) -> int:
    """Return the number of the line where it begins, behind the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")

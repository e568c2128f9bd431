"""Secrets given as the path of a file: `DIALWATCH_X_FILE` for `DIALWATCH_X`."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.settings.kinds import home_expanded

MOST_BYTES = 64 * 1024


class UnusableFile(NamedTuple):
    """In place of a secret that couldn't be read, until the settings are checked."""

    reason: str


class SecretFiles(PydanticBaseSettingsSource):
    """Reads the files that one source of variables (environment or `.env`) names.

    It comes before that source, so that a secret which is given in both ways is detected.
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        variables: Mapping[str, str | None],
        names: Iterable[str],
    ) -> None:
        """`variables`: lower-case name → value. `names`: the fields that may come from a file."""
        super().__init__(settings_cls)
        self._prefix = str(self.config.get("env_prefix", "")).lower()
        self._variables = variables
        self._names = tuple(names)

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name in self._names:
            value, _, _ = self.get_field_value(self.settings_cls.model_fields[name], name)
            if value is not None:
                found[name] = value
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """See pydantic-settings. The value may be an UnusableFile."""
        variable = self._prefix + field_name
        path = self._variables.get(f"{variable}_file")
        if not path:
            return None, variable, False
        if self._variables.get(variable):
            reason = f"must be removed, or {variable.upper()} must: both give the same secret"
            return UnusableFile(reason), variable, False
        return _read(path.strip()), variable, False


def _read(path: str) -> str | UnusableFile:
    """Return the file's text without the line end that editors add."""
    try:
        with home_expanded(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        return UnusableFile(f"must be a file that can be read ({error.strerror})")
    except UnicodeDecodeError:
        return UnusableFile("must be a file of UTF-8 text")
    except ValueError as error:  # the path isn't valid
        return UnusableFile(str(error))
    if len(content) > MOST_BYTES:
        return UnusableFile("must be a file that holds nothing but the secret")
    return text or UnusableFile("must be a file that isn't empty")

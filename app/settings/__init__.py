"""The settings: variables, the kinds of their values, and secrets in files."""

from app.settings.env_file import PREFIX
from app.settings.settings import (
    Settings,
    load_settings,
    settings_and_mistakes,
    variable,
)

__all__ = ["PREFIX", "Settings", "load_settings", "settings_and_mistakes", "variable"]

"""What an operator sets: the variables, their kinds, and secrets that lie in files."""

from app.settings.settings import PREFIX, Settings, load_settings, variable

__all__ = ["PREFIX", "Settings", "load_settings", "variable"]

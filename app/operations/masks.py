"""Openids and phones as they are shown: whole only where somebody asks for it."""

_LEAST = 8


def masked(text: str) -> str:
    """Return the first three characters, `****`, and the last four; `****` of a short one."""
    return "****" if len(text) < _LEAST else f"{text[:3]}****{text[-4:]}"


def shown(text: str | None, *, reveal: bool) -> str | None:
    """Return an openid or a phone as it may be shown."""
    return text if reveal or not text else masked(text)

"""Masking openids and phones, which are shown whole only on request."""

_LEAST = 8


def masked(text: str) -> str:
    """Return the first three characters, `****` and the last four; only `****` of a short text."""
    return "****" if len(text) < _LEAST else f"{text[:3]}****{text[-4:]}"


def shown(text: str | None, *, reveal: bool) -> str | None:
    """Return an openid or a phone, masked unless `reveal`."""
    return text if reveal or not text else masked(text)

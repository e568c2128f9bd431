"""What a terminal is shown. No printing here."""


def printable(text: str) -> str:
    """Return a text with a replacement for each character that would control the terminal."""
    return "".join(one if one.isprintable() else "�" for one in text)

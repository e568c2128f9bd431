"""The image's HEALTHCHECK, `python -m app.health`: asks the settings' worker whether it is well.

Uses `http.client`, which ignores proxies.
"""

import http.client
import sys

from app.errors import SettingsError
from app.settings import load_settings

SECONDS = 3.0


def main() -> int:
    """Return 0 if the worker is well; 1 if not, if it doesn't answer, or the settings are wrong."""
    try:
        address = load_settings().web_address
        connection = http.client.HTTPConnection(address, timeout=SECONDS)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        print(answer.read(1_000).decode(errors="replace"))
    except (SettingsError, OSError, http.client.HTTPException) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return int(answer.status != http.HTTPStatus.OK)


if __name__ == "__main__":
    sys.exit(main())

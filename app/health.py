"""Is the worker of these settings well? The image's HEALTHCHECK: `python -m app.health`.

By `http.client`, which heeds no proxy.
"""

import http.client
import sys

from app.errors import SettingsError
from app.settings import load_settings

SECONDS = 3.0


def main() -> int:
    """Return 0 where it is, 1 where it isn't, doesn't answer, or the settings are wrong."""
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

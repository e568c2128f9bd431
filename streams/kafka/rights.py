"""Who this program is for Kafka, and what it says when Kafka forbids something."""

from collections.abc import Mapping
from typing import Any


def principal_of(client_options: Mapping[str, Any]) -> str:
    """Return the user as Kafka's ACLs name him, as far as a client can know.

    `client_options`: as aiokafka names them. A certificate's name is the broker's to choose.
    """
    name = client_options.get("sasl_plain_username")
    if name:
        return f"User:{name}"
    if client_options.get("security_protocol") == "SSL":
        return "the certificate's user"
    return "User:ANONYMOUS"

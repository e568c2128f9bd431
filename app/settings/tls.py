"""The files of TLS, tried with OpenSSL when settings are checked, so that each wrong one is named.

Errors are ValueError with "must be …"; they never have what is in a file.
"""

import re
import ssl
from pathlib import Path

# OpenSSL's words for a key that isn't the certificate's; the latter where the algorithm differs.
_ANOTHERS = {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_ENCRYPTED_KEY = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")
# What OpenSSL says of a certificate that it reads and doesn't want, before it reads the key.
_WEAK = re.compile(r"\w+_TOO_(?:SMALL|WEAK)")
# With an empty password, an encrypted key is refused and nobody is asked for one.
_NO_PASSWORD = ""


def trusting(cafile: str | None) -> ssl.SSLContext:
    """Return a context that trusts a file's certificates; None: those of the system."""
    try:
        return ssl.create_default_context(cafile=cafile)
    except (OSError, ValueError):
        raise ValueError("must be certificates in PEM that OpenSSL can load") from None


def check_certificate(file: str) -> None:
    """Raise ValueError where a file holds no certificate. Whether it holds a key too isn't
    looked at."""
    trusting(file)
    try:
        _client_context().load_cert_chain(file, password=_NO_PASSWORD)
    except ssl.SSLError as error:
        if _WEAK.fullmatch(error.reason or ""):
            said = error.reason.lower().replace("_", " ")
            raise ValueError(f"must be a certificate that OpenSSL takes ({said})") from None
    except (OSError, ValueError):
        raise ValueError("must be certificates in PEM that OpenSSL can load") from None


def check_key(file: str) -> None:
    """Raise ValueError where a file doesn't look like a private key: of a key whose certificate
    isn't known, this is all that can be said."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror})") from None
    if _ENCRYPTED_KEY.search(content) or not _KEY.search(content):
        raise ValueError("must be a private key in PEM that OpenSSL can load, without a password")


def load_key(certificate: str, key: str | None, context: ssl.SSLContext | None = None) -> None:
    """Load a certificate, which `check_certificate` was called for, and its key into a context;
    None: only try it. `key` None: the key is in the certificate's file too."""
    try:
        (context or _client_context()).load_cert_chain(certificate, key, password=_NO_PASSWORD)
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason in _ANOTHERS:
            raise ValueError("must be the private key of the certificate, and is another") from None
        if key is None:
            raise ValueError(
                "must be set: the certificate's file holds no private key in PEM that OpenSSL can "
                "load, without a password"
            ) from None
        raise ValueError(
            "must be a private key in PEM that OpenSSL can load, without a password"
        ) from None


def _client_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

"""Signatures and encryption of WeChat's callbacks: SHA-1 over sorted parts, AES-256-CBC.

Follows the official encryption guide: key = Base64 of the 43 characters and "=", the first 16
bytes of the key as IV, PKCS#7 for blocks of 32, and 16 random bytes, the length, the message and
the appid inside.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

_RANDOM_BYTES = 16
_LENGTH_BYTES = 4
_PAD_BITS = 256
_BLOCK_BYTES = 16


class CryptoError(ValueError):
    """A text isn't encrypted with one of our keys, or not for our appid. Says what is wrong."""


def signature(*parts: str) -> str:
    """Return the signature, in hex, of token, timestamp, nonce and, if encrypted, ciphertext."""
    return hashlib.sha1("".join(sorted(parts)).encode("utf-8", "surrogatepass")).hexdigest()  # noqa: S324 (WeChat's choice)


def is_signed(given: str, *parts: str) -> bool:
    """Is `given` the signature of the parts? Takes the same time for every wrong one."""
    expected = signature(*parts).encode()
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected)


def decode_key(encoding_aes_key: str) -> bytes:
    """Return the key's 32 bytes. Unused bits of the last Base64 character are ignored: keys that
    others published have them set."""
    return base64.b64decode(encoding_aes_key + "=")


def encrypt(encoding_aes_key: str, app_id: str, message: bytes, random16: bytes = b"") -> str:
    """Return the ciphertext in Base64. `random16`: 16 bytes in place of random ones, for tests."""
    key = decode_key(encoding_aes_key)
    head = random16 or secrets.token_bytes(_RANDOM_BYTES)
    plain = head + len(message).to_bytes(_LENGTH_BYTES, "big") + message + app_id.encode()
    padder = PKCS7(_PAD_BITS).padder()
    padded = padder.update(plain) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(key[:_RANDOM_BYTES])).encryptor()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def decrypt(encoding_aes_keys: Sequence[str], app_id: str, ciphertext: str) -> bytes:
    """Return the message, decrypted with the first key that fits. Raises CryptoError."""
    try:
        sealed = base64.b64decode(ciphertext.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise CryptoError("Encrypt is no Base64") from None
    if not sealed or len(sealed) % _BLOCK_BYTES:
        raise CryptoError("Encrypt has no whole blocks")
    reason = "there is no key"
    for key in encoding_aes_keys:
        try:
            return _open(decode_key(key), app_id, sealed)
        except CryptoError as error:
            reason = str(error)
    raise CryptoError(reason)


def _open(key: bytes, app_id: str, sealed: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:_RANDOM_BYTES])).decryptor()
    padded = decryptor.update(sealed) + decryptor.finalize()
    unpadder = PKCS7(_PAD_BITS).unpadder()
    try:
        plain = unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise CryptoError("Encrypt has a wrong padding") from None
    begin = _RANDOM_BYTES + _LENGTH_BYTES
    length = int.from_bytes(plain[_RANDOM_BYTES:begin], "big")
    if len(plain) < begin or begin + length > len(plain):
        raise CryptoError("Encrypt has a wrong length inside")
    if not hmac.compare_digest(plain[begin + length :], app_id.encode()):
        raise CryptoError("Encrypt is for another appid")
    return plain[begin : begin + length]

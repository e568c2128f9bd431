"""Published vectors, byte for byte, in both directions; and what must not open."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from app.channels.wechat import crypto

VECTORS = json.loads((Path(__file__).parent / "wechat_vectors.json").read_text())
ENCRYPTED = [one for one in VECTORS if "encrypt" in one]
KEY, OTHER_KEY = "a" * 43, "b" * 43


def name(vector: dict[str, Any]) -> str:
    return str(vector["id"])


def random_bytes(vector: dict[str, Any]) -> bytes:
    """The 16 bytes at the head: given, or read out of the ciphertext where they aren't."""
    given = vector.get("random16")
    if given:
        return given.encode() if len(given) == 16 else bytes.fromhex(given)
    key = crypto.decode_key(vector["encoding_aes_key"])
    from cryptography.hazmat.primitives.ciphers import (  # noqa: PLC0415
        Cipher,
        algorithms,
        modes,
    )

    decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
    return decryptor.update(base64.b64decode(vector["encrypt"])[:16])


@pytest.mark.parametrize("vector", [one for one in VECTORS if "signature" in one], ids=name)
def test_signatures(vector: dict[str, Any]) -> None:
    parts = (vector["token"], vector["timestamp"], vector["nonce"])
    assert crypto.signature(*parts) == vector["signature"]
    assert crypto.is_signed(vector["signature"], *parts)
    assert not crypto.is_signed(vector["signature"][::-1], *parts)


@pytest.mark.parametrize("vector", ENCRYPTED, ids=name)
def test_message_signatures(vector: dict[str, Any]) -> None:
    parts = (vector["token"], vector["timestamp"], vector["nonce"], vector["encrypt"])
    assert crypto.signature(*parts) == vector["msg_signature"]


@pytest.mark.parametrize("vector", ENCRYPTED, ids=name)
def test_decrypting(vector: dict[str, Any]) -> None:
    opened = crypto.decrypt([vector["encoding_aes_key"]], vector["appid"], vector["encrypt"])
    assert opened.decode() == vector["plaintext"]


@pytest.mark.parametrize("vector", ENCRYPTED, ids=name)
def test_encrypting(vector: dict[str, Any]) -> None:
    sealed = crypto.encrypt(
        vector["encoding_aes_key"],
        vector["appid"],
        vector["plaintext"].encode(),
        random_bytes(vector),
    )
    assert sealed == vector["encrypt"]


def test_during_a_change_of_keys_both_open() -> None:
    for key in (KEY, OTHER_KEY):
        sealed = crypto.encrypt(key, "wx1", b"hello")
        assert crypto.decrypt([KEY, OTHER_KEY], "wx1", sealed) == b"hello"


@pytest.mark.parametrize(
    ("sealed", "reason"),
    [
        (crypto.encrypt(OTHER_KEY, "wx1", b"x"), "padding|length|appid"),
        (crypto.encrypt(KEY, "wx2", b"x"), "appid"),
        ("no base64!", "Base64"),
        ("", "blocks"),
        (base64.b64encode(b"x" * 17).decode(), "blocks"),
        ("é", "Base64"),
    ],
)
def test_what_must_not_open(sealed: str, reason: str) -> None:
    with pytest.raises(crypto.CryptoError, match=reason):
        crypto.decrypt([KEY], "wx1", sealed)

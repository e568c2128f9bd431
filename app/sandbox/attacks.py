"""Attacks on the callback by somebody who isn't WeChat. All must be refused, except a replay."""

import base64
import secrets
from dataclasses import dataclass
from typing import Literal, get_args

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from app.channels.wechat import crypto
from app.sandbox.callbacks import CallbackDriver

Attack = Literal[
    "wrong_signature",
    "no_signature",
    "stale",
    "clear_body",
    "empty_encrypt",
    "wrong_appid",
    "wrong_key",
    "bad_pad",
    "bad_length",
    "doctype",
    "too_long",
    "other_body",
    "replay",
]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
# These need an AES key to be set.
SEALED_ONLY = frozenset(
    {"clear_body", "empty_encrypt", "wrong_appid", "wrong_key", "bad_pad", "bad_length"}
)
_ENTITY = b'<!DOCTYPE xml [<!ENTITY e SYSTEM "file:///etc/hostname">]>'


@dataclass(frozen=True)
class Forged:
    """A forged request to the callback."""

    query: dict[str, str]
    body: bytes


async def send_attack(driver: CallbackDriver, attack: Attack, openid: str) -> list[int | None]:
    """Send the requests of an attack, each once; return their HTTP statuses."""
    return [
        (await driver.post(forged.query, forged.body))[0]
        for forged in _forge(driver, attack, openid)
    ]


def _forge(driver: CallbackDriver, attack: Attack, openid: str) -> list[Forged]:
    """Return the requests of one attack; where there are several, the last one is the attack."""
    said = driver.said(openid, "unsubscribe", {"EventKey": ""})
    match attack:
        case "wrong_signature":
            query, body = driver.request(said)
            wrong = {name: "0" * 40 for name in ("signature", "msg_signature") if name in query}
            return [Forged(query | wrong, body)]
        case "no_signature":
            query, body = driver.request(said)
            return [Forged({"openid": openid, "encrypt_type": query.get("encrypt_type", "")}, body)]
        case "stale":
            return [Forged(*driver.request(said, age_s=301))]
        case "doctype":
            return [Forged(*driver.request(said, wrap=lambda xml: _ENTITY + xml))]
        case "too_long":
            return [Forged(*driver.request(said | {"EventKey": "x" * 65_536}))]
        case "replay" | "other_body":
            query, body = driver.request(driver.said(openid, "VIEW", {"EventKey": "menu"}))
            again = body if attack == "replay" else driver.request(said)[1]
            return [Forged(query, body), Forged(query, again)]
        case _:
            return [_forge_sealed(driver, attack, said)]


def _forge_sealed(driver: CallbackDriver, attack: Attack, said: dict[str, str]) -> Forged:
    """Return a request with a valid signature, as an attacker makes it who has the token but not
    the key."""
    key, message = driver.callback.encoding_aes_key, driver.write(said)
    if attack == "clear_body":
        # This request tries to choose the mode.
        query, _ = driver.request(said)
        signed = {name: query[name] for name in ("signature", "timestamp", "nonce", "openid")}
        return Forged(signed | {"encrypt_type": "raw"}, message)
    if attack == "empty_encrypt":
        return Forged(driver.query(said, ""), driver.write(said | {"Encrypt": ""}))
    if attack == "wrong_appid":
        sealed = crypto.encrypt(key, "wx0another0appid", message)
    elif attack == "wrong_key":
        sealed = crypto.encrypt("z" * 43, driver.app_id, message)
    else:
        length = len(message) + (10_000 if attack == "bad_length" else 0)
        plain = secrets.token_bytes(16) + length.to_bytes(4, "big") + message
        plain += driver.app_id.encode()
        pad = 32 - len(plain) % 32
        # 33 is one more than the largest valid padding.
        sealed = _encrypt_raw(key, plain + bytes([33 if attack == "bad_pad" else pad]) * pad)
    return Forged(driver.query(said, sealed), driver.write({"Encrypt": sealed}))


def _encrypt_raw(encoding_aes_key: str, padded: bytes) -> str:
    key = crypto.decode_key(encoding_aes_key)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()

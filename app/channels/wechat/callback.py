"""Checks whether a request to the callback is from WeChat, and reads it. Pure; trusts nothing.

Our settings choose the mode, never the request: without an AES key the plain body counts, with one
only the encrypted body does.

In plain mode the signature doesn't cover the body: an attacker who has seen a signature could send
any body with it. Therefore each signature is valid for one body only (see `Heard.request` and
`Heard.said`): the same body again is a repeat, another body is refused, and after the time window
everything is. An attacker who reads the traffic can still be faster than WeChat; only an AES key
prevents that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from app.channels.wechat import crypto
from app.channels.wechat.events import EventError, field_of, read_fields

if TYPE_CHECKING:
    from app.settings import Settings

MOST_BODY_BYTES = 64 * 1024
_SIGNATURE = re.compile(r"[0-9a-fA-F]{40}")
WINDOW_SECONDS = 300


@dataclass(frozen=True)
class Console:
    """The callback's settings, which must be the same in the official account's console."""

    token: str | None
    app_id: str
    aes_keys: tuple[str, ...] = ()
    """The present key first, then the previous one; empty: plain mode."""

    @classmethod
    def of(cls, settings: "Settings") -> "Console":
        """Take it from the settings."""
        keys = (
            settings.wechat_encoding_aes_key,
            settings.wechat_encoding_aes_key_previous,
        )
        token = settings.wechat_callback_token
        return cls(
            token.get_secret_value() if token is not None else None,
            settings.wechat_app_id or "",
            tuple(key.get_secret_value() for key in keys if key is not None),
        )


@dataclass(frozen=True)
class RefusedRequest:
    """The request isn't WeChat's, or is too old: answer 403."""

    reason: str


@dataclass(frozen=True)
class Heard:
    """A valid request of WeChat's."""

    fields: Mapping[str, str]
    request: str
    """Identifies the request; a repeat of it has the same value."""
    said: str = ""
    """Identifies the content. Requests with the same `request` must have the same `said`."""


def verify_address(
    console: Console, query: Mapping[str, str], now_s: float
) -> str | RefusedRequest:
    """Check the GET by which WeChat verifies the address; return the `echostr` to answer with."""
    refused = _check_query(console, query, now_s)
    if refused is not None:
        return refused
    if not crypto.is_signed(query.get("signature", ""), *_signed(console, query)):
        return RefusedRequest("the signature is wrong")
    return query.get("echostr", "")


def refuse_early(console: Console, query: Mapping[str, str], now_s: float) -> RefusedRequest | None:
    """Return why a POST is refused before its body is read; None: the body must be read.

    The signature of encrypted mode covers the body, so that only its form can be checked here.
    """
    refused = _check_query(console, query, now_s)
    if refused is not None:
        return refused
    if not console.aes_keys:
        if not crypto.is_signed(query.get("signature", ""), *_signed(console, query)):
            return RefusedRequest("the signature is wrong")
    elif not _SIGNATURE.fullmatch(query.get("msg_signature", "")):
        return RefusedRequest("the msg_signature is missing")
    return None


def hear(
    console: Console, query: Mapping[str, str], body: bytes, now_s: float
) -> Heard | RefusedRequest:
    """Return the content of a POST, or why it is refused."""
    refused = refuse_early(console, query, now_s)
    if refused is not None:
        return refused
    if len(body) > MOST_BODY_BYTES:
        return RefusedRequest("the body is longer than 64 KiB")
    try:
        if not console.aes_keys:
            return _hear_plain(query, body)
        return _hear_encrypted(console, query, body)
    except (EventError, crypto.CryptoError) as error:
        return RefusedRequest(str(error))


def _check_query(console: Console, query: Mapping[str, str], now_s: float) -> RefusedRequest | None:
    if console.token is None:
        return RefusedRequest("DIALWATCH_WECHAT_CALLBACK_TOKEN is not set")
    timestamp = query.get("timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit()) or len(timestamp) > 12:
        return RefusedRequest("the timestamp is missing")
    if abs(now_s - int(timestamp)) > WINDOW_SECONDS:
        return RefusedRequest("the timestamp is more than 300 s off")
    return None


def _signed(console: Console, query: Mapping[str, str]) -> tuple[str, str, str]:
    return (console.token or "", query.get("timestamp", ""), query.get("nonce", ""))


def _hear_plain(query: Mapping[str, str], body: bytes) -> Heard | RefusedRequest:
    fields = read_fields(body)
    if "Encrypt" in fields and "MsgType" not in fields:
        return RefusedRequest(
            "the body is encrypted and DIALWATCH_WECHAT_ENCODING_AES_KEY is not set"
        )
    return Heard(fields, request_name(query), blake2b(body, digest_size=16).hexdigest())


def _hear_encrypted(
    console: Console, query: Mapping[str, str], body: bytes
) -> Heard | RefusedRequest:
    sealed = field_of(read_fields(body), "Encrypt")
    if not sealed:
        return RefusedRequest("the body is in clear and a key is set")
    given = query.get("msg_signature", "")
    if not crypto.is_signed(given, *_signed(console, query), sealed):
        return RefusedRequest("the msg_signature is wrong")
    message = crypto.decrypt(console.aes_keys, console.app_id, sealed)
    # The signature covers the part of the body that counts, and is part of `request`.
    return Heard(read_fields(message), f"{request_name(query)}:{given}")


def request_name(query: Mapping[str, str]) -> str:
    """Return what identifies a plain request: its signature is valid for one content only. An
    address check is noted under it too, so that its signature can't be used for an event later."""
    return f"{query.get('timestamp', '')}:{query.get('nonce', '')}"

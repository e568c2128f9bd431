"""Is a request to the callback WeChat's, and what does it say? Pure, and trusts nothing.

The mode is our settings': while no AES key is set the clear body counts, with one only what is
encrypted does. A request can't choose.

The signature of plain mode doesn't cover the body, so that whoever has seen one could write any
body under it. Therefore a signature opens one body once (see `Heard.request` and `Heard.said`): the
same body again is a repeat, another one is refused, and after the window all are. What is left to
somebody who reads the traffic is to be faster than WeChat; only an AES key closes that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from app.channels.wechat import crypto
from app.channels.wechat.events import EventError, read_fields

if TYPE_CHECKING:
    from app.settings import Settings

MOST_BODY_BYTES = 64 * 1024
_SIGNATURE = re.compile(r"[0-9a-fA-F]{40}")
WINDOW_SECONDS = 300


@dataclass(frozen=True)
class Console:
    """What the official account's console and our settings agree on."""

    token: str | None
    app_id: str
    aes_keys: tuple[str, ...] = ()
    """The present one first; none: plain mode."""

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
    """Not WeChat's, or not now: 403."""

    reason: str


@dataclass(frozen=True)
class Heard:
    """A request of WeChat's."""

    fields: Mapping[str, str]
    request: str
    """Names the request: a repeat of it carries the same."""
    said: str = ""
    """Names what it said: under one `request` nothing else may ever be said."""


def verify_address(
    console: Console, query: Mapping[str, str], now_s: float
) -> str | RefusedRequest:
    """Return the echostr of a GET that WeChat made to check the address."""
    refused = _check_query(console, query, now_s)
    if refused is not None:
        return refused
    if not crypto.is_signed(query.get("signature", ""), *_signed(console, query)):
        return RefusedRequest("the signature is wrong")
    return query.get("echostr", "")


def refuse_early(console: Console, query: Mapping[str, str], now_s: float) -> RefusedRequest | None:
    """Return why a POST counts for nothing whatever its body says; None: the body must be read.

    An encrypted body's signature covers it, so that only its form can be seen before.
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
    """Return what a POST says, or why it counts for nothing."""
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
    sealed = read_fields(body).get("Encrypt")
    if not sealed:
        return RefusedRequest("the body is in clear and a key is set")
    given = query.get("msg_signature", "")
    if not crypto.is_signed(given, *_signed(console, query), sealed):
        return RefusedRequest("the msg_signature is wrong")
    message = crypto.decrypt(console.aes_keys, console.app_id, sealed)
    # The signature covers what counts of the body, and is part of the request's name.
    return Heard(read_fields(message), f"{request_name(query)}:{given}")


def request_name(query: Mapping[str, str]) -> str:
    """Return what a clear signature is bound to: the address check's opens no event later."""
    return f"{query.get('timestamp', '')}:{query.get('nonce', '')}"

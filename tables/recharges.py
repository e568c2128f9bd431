"""Recharges: which ones an account has had, so that a repeated record changes nothing."""

from hashlib import blake2b

from msgspec import Struct

from tables.explained import Explained, Sentence

_BYTES = 8


# 32 KiB: what an account's every recharge rewrites at most. Hardly anybody has so many.
MOST_IN_FIRST = 4_096


class Recharges(Struct, array_like=True):
    """The recharges of one account: 8 bytes of hash each, concatenated, never deleted.

    Beyond the first `MOST_IN_FIRST` they go into pages by their first byte. Persisted:
    append fields only, with defaults.
    """

    hashes: bytes = b""


def hash_of(recharge_id: str) -> bytes:
    """Return the hash under which a recharge is remembered."""
    return blake2b(recharge_id.encode(), digest_size=_BYTES).digest()


def page_key(account: bytes, digest: bytes) -> bytes:
    """Return the key of the page that a hash, or its first byte, belongs to."""
    return account + digest[:1]


def page_keys(account: bytes) -> list[bytes]:
    """Return the keys of all possible pages."""
    return [page_key(account, bytes([first])) for first in range(256)]


def is_full(recharges: Recharges) -> bool:
    """Must further recharges go into pages?"""
    return len(recharges.hashes) >= MOST_IN_FIRST * _BYTES


def has(recharges: Recharges, digest: bytes) -> bool:
    """Is a hash among these?"""
    known = recharges.hashes
    at = known.find(digest)
    while at >= 0:
        if at % _BYTES == 0:
            return True
        at = known.find(digest, at + 1)  # the end of one hash and the beginning of the next
    return False


def fold(recharges: Recharges, digest: bytes) -> bool:
    """Remember a recharge by its hash; is it new among these?"""
    if has(recharges, digest):
        return False
    recharges.hashes += digest
    return True


def count(recharges: Recharges | None) -> int:
    """Return how many recharges an account has had."""
    return 0 if recharges is None else len(recharges.hashes) // _BYTES


def explain(recharges: Recharges | None) -> Explained:
    """Explain that each recharge is told once."""
    known = count(recharges)
    reason = (
        Sentence(
            f"已到账{known}笔充值，每笔到账时通知一次，重复的记录不再通知。",
            f"{known} recharge{'s have' if known > 1 else ' has'} come: each is told once.",
        )
        if known
        else Sentence("还没有充值记录。", "No recharge has come.")
    )
    return Explained(known, None, [reason])

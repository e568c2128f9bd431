"""Recharges: which ones an account has had, so that a repeat changes nothing."""

from hashlib import blake2b

from msgspec import Struct

from tables.explained import Explained, Sentence

_BYTES = 8


class Recharges(Struct, array_like=True):
    """Of one account: 8 bytes of a hash for each recharge id, one after the other, for good.

    Persisted: append fields only, with defaults.
    """

    hashes: bytes = b""


def fold(recharges: Recharges, recharge_id: str) -> bool:
    """Remember a recharge; is it new?"""
    digest = blake2b(recharge_id.encode(), digest_size=_BYTES).digest()
    known = recharges.hashes
    at = known.find(digest)
    while at >= 0:
        if at % _BYTES == 0:
            return False
        at = known.find(digest, at + 1)  # the end of one hash and the beginning of the next
    recharges.hashes = known + digest
    return True


def count(recharges: Recharges | None) -> int:
    """Return how many recharges an account has had."""
    return 0 if recharges is None else len(recharges.hashes) // _BYTES


def explain(recharges: Recharges | None) -> Explained:
    """Say that each recharge is told, once."""
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

"""Recharges: which ones an account has had, so that a repeat changes nothing."""

from hashlib import blake2b

from msgspec import Struct

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

"""How the sender looks an account up: as it is at sending time, not as it was at the event."""

from collections.abc import Callable

from streams.engine.state import State
from streams.records import Account
from streams.topics import partition_of
from tables.state_tables import CUSTOMERS


def account_lookup(
    state_of: Callable[[int], State | None], partitions: int
) -> Callable[[str], Account | None]:
    """Return a look-up of accounts in this worker's states; None: the account has no record.

    Only accounts of the partitions that this worker holds are found, which are those whose
    commands it sends.
    """

    def lookup(account_id: str) -> Account | None:
        key = account_id.encode()
        state = state_of(partition_of(key, partitions))
        customer = None if state is None else state.peek(CUSTOMERS, key)
        if customer is None:
            return None
        return Account(account_id, customer.name, customer.openid, customer.phone)

    return lookup

"""The accounts in a line's run where they are many: in pages, so that no value gets long."""

from struct import Struct as Packer

from streams.engine.state import State
from streams.records import Channel
from tables.lines import LineAccounts, LineRun
from tables.state_tables import LINE_ACCOUNTS, LINES

# Of at most 512 bytes each; a segment may add as many as it has calls before they are put aside.
MOST_BESIDE_RUN = 256
_pack_page = Packer(">I").pack


def put_aside(state: State, key: bytes, line: LineRun) -> None:
    """Move the accounts of a run to a page of their own where they have become many."""
    if len(line.accounts) > MOST_BESIDE_RUN:
        state.put(LINE_ACCOUNTS, key + _pack_page(line.pages), LineAccounts(line.accounts))
        line.pages += 1
        line.accounts = {}


def all_of(
    state: State, key: bytes, pages: int, latest: dict[str, list[Channel] | None]
) -> dict[str, list[Channel] | None]:
    """Return the accounts of so many pages and the `latest`, each with its latest channels."""
    if not pages:
        return latest
    accounts: dict[str, list[Channel] | None] = {}
    for page in range(pages):
        found = state.read(LINE_ACCOUNTS, key + _pack_page(page))
        if found is not None:
            accounts |= found.accounts
    return accounts | latest


def forget_pages(state: State, key: bytes, pages: int) -> None:
    """Forget so many pages of a line, whose run is over."""
    for page in range(pages):
        state.delete(LINE_ACCOUNTS, key + _pack_page(page))


def forget_line(state: State, key: bytes, line: LineRun) -> None:
    """Forget a line."""
    forget_pages(state, key, line.pages)
    state.delete(LINES, key)

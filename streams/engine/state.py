"""The state of one partition number: its committed values, and what the running cycle changed.

Values are kept as bytes, so that a million accounts fit in memory, and are objects only while a
cycle works on them. A look-up asks the running cycle, then the one being committed, then the base.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

import msgspec

from streams.engine.types import Header

V = TypeVar("V")

Change = tuple[bytes, bytes | None, list[Header]]
"""A record of the changelog: key, value (None: deleted) and headers (always empty)."""

_NO_HEADERS: list[Header] = []


class Table(Generic[V]):
    """One kind of state: the prefix of its keys, and how its values become bytes.

    `prefix` is persisted: one byte, different for every table, never changed.
    """

    def __init__(self, prefix: bytes, value_type: type[V]) -> None:
        if len(prefix) != 1:
            raise ValueError(f"a table's prefix is one byte, not {prefix!r}")
        self.prefix = prefix
        self.value_type = value_type
        self.encode: Callable[[V], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], V] = msgspec.msgpack.Decoder(value_type).decode


class State:
    """The state of one partition number, of all tables.

    Rules use `get`, `get_or_put`, `put`, `delete`, `peek`, `read` and `keys`; the rest is the
    engine's.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.position = 0
        """The offset of the changelog up to which the base holds everything."""
        self.derived: dict[str, Any] = {}
        """Indexes that rules derive from the state. Emptied when the state is set back, so that
        they would no longer match it."""
        # First by the table's prefix, then by key: so a look-up needn't join the two.
        self._base: defaultdict[bytes, dict[bytes, bytes]] = defaultdict(dict)
        self._committing: defaultdict[bytes, dict[bytes, bytes | None]] = defaultdict(dict)
        self._live: defaultdict[Table[Any], dict[bytes, Any]] = defaultdict(dict)
        self._peeked: defaultdict[Table[Any], dict[bytes, Any]] = defaultdict(dict)

    def __len__(self) -> int:
        """The number of values in the base."""
        return sum(map(len, self._base.values()))

    def get(self, table: Table[V], key: bytes) -> V | None:
        """Return a value that the caller may change: what it is at the cycle's end is written."""
        live = self._live[table]
        if key in live:
            value: V | None = live[key]
            return value
        raw = self._raw(table.prefix, key)
        if raw is None:
            return None
        value = live[key] = table.decode(raw)
        return value

    def get_or_put(self, table: Table[V], key: bytes, make: Callable[[], V]) -> V:
        """Like `get`; where there is no value, put the one that `make` returns."""
        value = self.get(table, key)
        if value is None:
            value = self._live[table][key] = make()
        return value

    def peek(self, table: Table[V], key: bytes) -> V | None:
        """Return a value to look at only: changes of it are lost. Cheaper at commit than `get`."""
        live = self._live[table]
        if key in live:
            value: V | None = live[key]
            return value
        peeked = self._peeked[table]
        value = peeked.get(key)
        if value is None:
            value = self.read(table, key)
            if value is not None:
                peeked[key] = value
        return value

    def read(self, table: Table[V], key: bytes) -> V | None:
        """Like `peek`, but the decoded value isn't kept: for walks through a whole table."""
        live = self._live[table]
        if key in live:
            value: V | None = live[key]
            return value
        raw = self._raw(table.prefix, key)
        return None if raw is None else table.decode(raw)

    def get_many(self, table: Table[V], keys: Collection[bytes]) -> list[V | None]:
        """`get` for many keys, at half the cost. Give the keys in the order in which the values are
        used: with a million accounts most of the cost is what the processor's caches miss."""
        live, decode = self._live[table], table.decode
        committing, base = self._committing[table.prefix], self._base[table.prefix]
        for key in keys:
            if key not in live:
                raw = committing[key] if key in committing else base.get(key)
                if raw is not None:
                    live[key] = decode(raw)
        return list(map(live.get, keys))

    def put(self, table: Table[V], key: bytes, value: V) -> None:
        """Set a key's value."""
        self._live[table][key] = value

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Delete a key's value."""
        self._live[table][key] = None

    def keys(self, table: Table[Any]) -> Iterator[bytes]:
        """Yield all keys of a table. Takes long in a large one: don't use it for every record.

        Put and delete nothing before the last key is taken.
        """
        live, committing = self._live[table], self._committing[table.prefix]
        yield from (key for key, value in live.items() if value is not None)
        yield from (key for key, raw in committing.items() if raw is not None and key not in live)
        for key in self._base[table.prefix]:
            if key not in committing and key not in live:
                yield key

    def committed(self, table: Table[V], key: bytes) -> V | None:
        """Return a copy of the committed value. For code outside of the folds."""
        base = self._base.get(table.prefix)
        raw = None if base is None else base.get(key)
        return None if raw is None else table.decode(raw)

    def committed_keys(self, table: Table[Any]) -> Collection[bytes]:
        """Return the keys of a table's committed values."""
        return self._base.get(table.prefix, {}).keys()

    def loaded(self) -> int:
        """The number of values that the running cycle has loaded or changed, held as objects."""
        return sum(map(len, self._live.values()))

    def seal(self) -> list[Change]:
        """End the running cycle; return its changes, for the changelog.

        The next cycle sees these changes at once. `apply` or `discard` must follow.
        """
        if any(self._committing.values()):
            raise RuntimeError("the cycle before is still being committed")
        changes: list[Change] = []
        for table, live in self._live.items():
            prefix, encode = table.prefix, table.encode
            sealed = self._committing[prefix] = {
                key: None if value is None else encode(value) for key, value in live.items()
            }
            changes += [(prefix + key, raw, _NO_HEADERS) for key, raw in sealed.items()]
        self._live.clear()
        self._peeked.clear()
        return changes

    def apply(self) -> None:
        """Move the sealed changes into the base, once their transaction is committed."""
        for prefix, sealed in self._committing.items():
            base = self._base[prefix]
            for key in [key for key, raw in sealed.items() if raw is None]:
                del sealed[key]
                base.pop(key, None)
            base.update(cast(dict[bytes, bytes], sealed))
        self._committing.clear()

    def discard(self) -> None:
        """Drop the changes of the running and the sealed cycle: back to the base."""
        self._live.clear()
        self._peeked.clear()
        self._committing.clear()
        self.derived = {}

    def restore(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply changelog records to the base, in their order."""
        base = self._base
        for full, raw in records:
            if raw is None:
                base[full[:1]].pop(full[1:], None)
            else:
                base[full[:1]][full[1:]] = raw

    def _raw(self, prefix: bytes, key: bytes) -> bytes | None:
        committing = self._committing[prefix]
        return committing[key] if key in committing else self._base[prefix].get(key)

"""What is remembered of one partition number, and what the running cycle changed of it.

Values are bytes wherever they wait (a million accounts fit in memory so) and objects only while
a cycle works on them. Look-up order: the running cycle, the cycle being committed, the base.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

import msgspec

V = TypeVar("V")

Change = tuple[bytes, bytes | None, list[tuple[str, bytes]]]
"""A record of the changelog: key, value (None: deleted) and headers, of which there are none."""

_NO_HEADERS: list[tuple[str, bytes]] = []


class Table(Generic[V]):
    """One kind of state: a prefix for its keys, and its values' bytes.

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
        """Offset of the changelog up to which the base is complete."""
        self.derived: dict[str, Any] = {}
        """What rules work out from the state to find things in it; emptied when it is not built
        on the state as it is any more."""
        # By a table's prefix and then by key: no key is put together to look something up.
        self._base: defaultdict[bytes, dict[bytes, bytes]] = defaultdict(dict)
        self._committing: defaultdict[bytes, dict[bytes, bytes | None]] = defaultdict(dict)
        self._live: defaultdict[Table[Any], dict[bytes, Any]] = defaultdict(dict)
        self._peeked: defaultdict[Table[Any], dict[bytes, Any]] = defaultdict(dict)

    def __len__(self) -> int:
        """How many values the base holds."""
        return sum(map(len, self._base.values()))

    def get(self, table: Table[V], key: bytes) -> V | None:
        """Return the value to work on: it is remembered with this cycle, changed or not."""
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
        """Return the value to work on; where there is none, remember the one that is made."""
        value = self.get(table, key)
        if value is None:
            value = self._live[table][key] = make()
        return value

    def peek(self, table: Table[V], key: bytes) -> V | None:
        """Return the value to look at: changes of it are lost. Cheaper than `get` at commit."""
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
        """`peek` that remembers nothing: for walks through a table, which wouldn't fit decoded."""
        live = self._live[table]
        if key in live:
            value: V | None = live[key]
            return value
        raw = self._raw(table.prefix, key)
        return None if raw is None else table.decode(raw)

    def get_many(self, table: Table[V], keys: Collection[bytes]) -> list[V | None]:
        """`get` for many keys, at half its price. Give them in the order in which they are used:
        with a million accounts, what is not in the processor's caches is most of the cost."""
        live, decode = self._live[table], table.decode
        committing, base = self._committing[table.prefix], self._base[table.prefix]
        for key in keys:
            if key not in live:
                raw = committing[key] if key in committing else base.get(key)
                if raw is not None:
                    live[key] = decode(raw)
        return list(map(live.get, keys))

    def put(self, table: Table[V], key: bytes, value: V) -> None:
        """Remember a new value."""
        self._live[table][key] = value

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Forget a value."""
        self._live[table][key] = None

    def keys(self, table: Table[Any]) -> Iterator[bytes]:
        """Yield the keys of a table. Walks all of it: not for every record.

        Nothing may be put or deleted before the last one is taken.
        """
        live, committing = self._live[table], self._committing[table.prefix]
        yield from (key for key, value in live.items() if value is not None)
        yield from (key for key, raw in committing.items() if raw is not None and key not in live)
        for key in self._base[table.prefix]:
            if key not in committing and key not in live:
                yield key

    def committed(self, table: Table[V], key: bytes) -> V | None:
        """Return a copy of the value that is committed: for whoever looks and is no fold."""
        base = self._base.get(table.prefix)
        raw = None if base is None else base.get(key)
        return None if raw is None else table.decode(raw)

    def committed_keys(self, table: Table[Any]) -> Collection[bytes]:
        """Return the keys of what is committed."""
        return self._base.get(table.prefix, {}).keys()

    def loaded(self) -> int:
        """How many values the running cycle has loaded or changed: it holds them as objects."""
        return sum(map(len, self._live.values()))

    def seal(self) -> list[Change]:
        """End the running cycle: return what it changed, for the changelog; None: deleted.

        Until `apply` or `discard` these changes are seen by the next cycle.
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
        """Make the sealed changes the base: their transaction is committed."""
        for prefix, sealed in self._committing.items():
            base = self._base[prefix]
            for key in [key for key, raw in sealed.items() if raw is None]:
                del sealed[key]
                base.pop(key, None)
            base.update(cast(dict[bytes, bytes], sealed))
        self._committing.clear()

    def discard(self) -> None:
        """Forget the running cycle and the sealed one: back to the base."""
        self._live.clear()
        self._peeked.clear()
        self._committing.clear()
        self.derived = {}

    def restore(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take changelog records over into the base, in their order."""
        base = self._base
        for full, raw in records:
            if raw is None:
                base[full[:1]].pop(full[1:], None)
            else:
                base[full[:1]][full[1:]] = raw

    def _raw(self, prefix: bytes, key: bytes) -> bytes | None:
        committing = self._committing[prefix]
        return committing[key] if key in committing else self._base[prefix].get(key)

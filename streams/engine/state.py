"""What is remembered of one partition number, and what the running cycle changed of it.

Values are bytes wherever they wait (a million accounts fit in memory so) and objects only while
a cycle works on them. Look-up order: the running cycle, the cycle being committed, the base.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

V = TypeVar("V")


class Table(Generic[V]):
    """One kind of state: a prefix for its keys, and its values' bytes.

    `prefix` is persisted: one byte, different for every table, never changed.
    """

    def __init__(self, prefix: bytes, value_type: type[V]) -> None:
        if len(prefix) != 1:
            raise ValueError(f"a table's prefix is one byte, not {prefix!r}")
        self.prefix = prefix
        self.encode: Callable[[V], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], V] = msgspec.msgpack.Decoder(value_type).decode


class State:
    """The state of one partition number, of all tables.

    Rules use `get`, `get_or_put`, `put`, `delete`, `peek` and `keys`; the rest is the engine's.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.base: dict[bytes, bytes] = {}
        self.position = 0
        """Offset of the changelog up to which `base` is complete."""
        self.derived: dict[str, Any] = {}
        """What rules work out from the state to find things in it; emptied when it is not built
        on the state as it is any more."""
        self._committing: dict[bytes, bytes | None] = {}
        self._live: defaultdict[Table[Any], dict[bytes, Any]] = defaultdict(dict)
        self._peeked: dict[bytes, Any] = {}

    def get(self, table: Table[V], key: bytes) -> V | None:
        """Return the value to work on: what is changed in it is remembered with this cycle."""
        live = self._live[table]
        if key in live:
            value: V | None = live[key]
            return value
        raw = self._raw(table.prefix + key)
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
        full = table.prefix + key
        value = self._peeked.get(full)
        if value is None:
            raw = self._raw(full)
            if raw is None:
                return None
            value = self._peeked[full] = table.decode(raw)
        return value

    def put(self, table: Table[V], key: bytes, value: V) -> None:
        """Remember a new value."""
        self._live[table][key] = value

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Forget a value."""
        self._live[table][key] = None

    def loaded(self) -> int:
        """How many values the running cycle has loaded or changed: it holds them as objects."""
        return sum(map(len, self._live.values()))

    def keys(self, table: Table[Any]) -> Iterator[bytes]:
        """Yield the keys of a table. Walks all of the partition's state: not for every record.

        Nothing may be put or deleted before the last one is taken.
        """
        prefix, live, committing = table.prefix, self._live[table], self._committing
        yield from (key for key, value in live.items() if value is not None)
        for full, raw in committing.items():
            if raw is not None and full[:1] == prefix and full[1:] not in live:
                yield full[1:]
        for full in self.base:
            if full[:1] == prefix and full not in committing and full[1:] not in live:
                yield full[1:]

    def seal(self) -> dict[bytes, bytes | None]:
        """End the running cycle: return what it changed, for the changelog; None: deleted.

        Until `apply` or `discard` these changes are seen by the next cycle.
        """
        if self._committing:
            raise RuntimeError("the cycle before is still being committed")
        changes: dict[bytes, bytes | None] = {}
        for table, live in self._live.items():
            prefix, encode = table.prefix, table.encode
            for key, value in live.items():
                full = prefix + key
                raw = None if value is None else encode(value)
                if raw != self.base.get(full):
                    changes[full] = raw
        self._live = defaultdict(dict)
        self._peeked = {}
        self._committing = changes
        return changes

    def apply(self) -> None:
        """Make the sealed changes the base: their transaction is committed."""
        self.restore(self._committing.items())
        self._committing = {}

    def discard(self) -> None:
        """Forget the running cycle and the sealed one: back to the base."""
        self._live = defaultdict(dict)
        self._peeked = {}
        self._committing = {}
        self.derived = {}

    def restore(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take changelog records over into the base, in their order."""
        base = self.base
        for full, raw in records:
            if raw is None:
                base.pop(full, None)
            else:
                base[full] = raw

    def _raw(self, full: bytes) -> bytes | None:
        committing = self._committing
        return committing[full] if full in committing else self.base.get(full)

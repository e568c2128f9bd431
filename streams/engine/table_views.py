"""Faust's tables as read-only views of the engine's states.

The engine alone writes, fences and restores the changelog, and moves it with its partitions; Faust
only knows which tables there are. Reading a table returns copies of committed values.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Self

import faust
from faust.stores.base import Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP
from faust.types.windows import WindowT

from streams.engine.state import State, Table


class StrayWriteError(TypeError):
    """Code tried to write to a table outside of the engine's transactions."""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: "_ReadOnly", *args: Any, **kwargs: Any) -> NoReturn:
        raise StrayWriteError(
            f"table {self.table_name} is the engine's: a fold changes it by its chunk's state, "
            "with the transaction of its cycle, and nobody else does"
        )

    refuse.__name__ = name
    return refuse


class _ReadOnly:
    """Raises StrayWriteError from every method that changes a mapping or a Faust table."""

    table_name: str

    __setitem__ = _refusing("__setitem__")
    __delitem__ = _refusing("__delitem__")
    __ior__ = _refusing("__ior__")
    update = _refusing("update")
    raw_update = _refusing("raw_update")
    setdefault = _refusing("setdefault")
    pop = _refusing("pop")
    popitem = _refusing("popitem")
    clear = _refusing("clear")
    reset_state = _refusing("reset_state")
    apply_changelog_batch = _refusing("apply_changelog_batch")


class _Values(Mapping[bytes, Any]):
    """The committed values of one table, of all states that this worker has."""

    def __init__(self, kind: Table[Any], states: Callable[[], Mapping[int, State]]) -> None:
        self._kind = kind
        self._states = states

    def __getitem__(self, key: bytes) -> Any:
        for state in self._states().values():
            value = state.committed(self._kind, key)
            if value is not None:
                return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[bytes]:
        for state in self._states().values():
            yield from state.committed_keys(self._kind)

    def __len__(self) -> int:
        return sum(len(state.committed_keys(self._kind)) for state in self._states().values())


class _Store(_ReadOnly, Store[bytes, Any]):  # type: ignore[misc]
    """The store that Faust wants every table to have."""

    backup_partition = _refusing("backup_partition")
    restore_backup = _refusing("restore_backup")

    def __init__(self, table: "StateTable", values: _Values) -> None:
        super().__init__("engine://", table.app, table, table_name=table.name)
        self.data = values

    def persisted_offset(self, tp: TP) -> int | None:
        """Return None: values are persisted in the changelog only."""
        return None


class StateTable(_ReadOnly, faust.Table):  # type: ignore[misc]
    """One of the engine's tables as Faust declares it: `app.Table(name, kind=…, states=…)`.

    Its window says how long a value counts; values are looked up by key, not by key and window.
    """

    on_key_set = _refusing("on_key_set")
    on_key_del = _refusing("on_key_del")
    on_clear = _refusing("on_clear")
    send_changelog = _refusing("send_changelog")

    def __init__(
        self,
        app: faust.App,
        *,
        kind: Table[Any],
        states: Callable[[], Mapping[int, State]],
        changelog: str,
        **kwargs: Any,
    ) -> None:
        """`kind`: the engine's table. `states`: returns this worker's states by partition number.
        `changelog`: the one topic of all tables."""
        super().__init__(
            app,
            changelog_topic=app.topic(changelog, key_serializer="raw", value_serializer="raw"),
            key_type=bytes,
            value_type=kind.value_type,
            **kwargs,
        )
        self.kind = kind
        self.table_name = self.name
        self._data = _Store(self, _Values(kind, states))

    def using_window(self, window: WindowT, *, key_index: bool = False) -> Self:
        """Set the window, for readers who know Faust. Stock Faust would also rename the changelog
        and add a wrapper that writes."""
        self.window = window
        return self


class TableViews(TableManager):  # type: ignore[misc]
    """Knows the declared tables, and keeps Faust from doing anything with them.

    Stock Faust subscribes to the changelogs, which changes the group's assignment, and restores
    tables from them with records of uncommitted transactions.
    """

    _recovery: Recovery | None = None

    def add(self, table: StateTable) -> StateTable:
        """Add a table without its changelog: Faust would assign and restore that."""
        super().add(table)
        self._changelogs.clear()
        return table

    @property
    def recovery(self) -> Recovery:
        """Faust's own recovery, of no tables: after a rebalance it lets reading go on at once."""
        if self._recovery is None:
            no_tables = TableManager(self.app)
            self._recovery = Recovery(self.app, no_tables, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        self._tables_registered.set()

"""What a state remembers: the running cycle over the sealed one over the base."""

import pytest
from msgspec import Struct

from streams.engine.state import State, Table


class Tally(Struct):
    count: int = 0


TALLIES = Table(b"x", Tally)
OTHERS = Table(b"y", Tally)


def raw(count: int) -> bytes:
    return TALLIES.encode(Tally(count))


@pytest.fixture
def state() -> State:
    """One whose base holds k: 1."""
    made = State(0)
    made.restore([(b"xk", raw(1))])
    return made


def commit(state: State) -> dict[bytes, bytes | None]:
    changes = {key: value for key, value, _ in state.seal()}
    state.apply()
    return changes


def test_what_is_got_is_worked_on_and_what_is_peeked_at_is_not(state: State) -> None:
    peeked = state.peek(TALLIES, b"k")
    assert peeked is not None
    peeked.count = 9
    assert commit(state) == {}
    assert state.peek(TALLIES, b"k") == Tally(1)

    got = state.get(TALLIES, b"k")
    assert got is not None
    got.count = 2
    assert state.peek(TALLIES, b"k") is got
    assert commit(state) == {b"xk": raw(2)}
    assert state.peek(TALLIES, b"k") == Tally(2)


def test_a_cycle_sees_what_the_one_before_sealed_and_the_base_below_it(state: State) -> None:
    state.put(TALLIES, b"sealed", Tally(2))
    state.seal()
    state.put(TALLIES, b"live", Tally(3))
    assert state.get_many(TALLIES, [b"k", b"sealed", b"live", b"none"]) == [
        Tally(1),
        Tally(2),
        Tally(3),
        None,
    ]
    assert sorted(state.keys(TALLIES)) == [b"k", b"live", b"sealed"]
    assert len(state) == 1  # the base alone


def test_what_is_deleted_is_hidden_at_once_and_gone_with_its_commit(state: State) -> None:
    state.delete(TALLIES, b"k")
    assert (state.get(TALLIES, b"k"), state.peek(TALLIES, b"k")) == (None, None)
    assert state.read(TALLIES, b"k") is None
    assert list(state.keys(TALLIES)) == []
    assert state.seal() == [(b"xk", None, [])]
    assert state.get(TALLIES, b"k") is None  # sealed, and the base still has it
    assert len(state) == 1
    state.apply()
    assert len(state) == 0


def test_a_discarded_cycle_leaves_the_base_and_nothing_worked_out(state: State) -> None:
    state.put(TALLIES, b"k", Tally(2))
    state.seal()
    state.put(TALLIES, b"k", Tally(3))
    state.derived["index"] = {b"k"}
    state.discard()
    assert state.get(TALLIES, b"k") == Tally(1)
    assert state.derived == {}


def test_a_cycle_is_sealed_only_when_the_one_before_is_committed(state: State) -> None:
    state.put(TALLIES, b"k", Tally(2))
    state.seal()
    state.put(TALLIES, b"k", Tally(3))
    with pytest.raises(RuntimeError, match="still being committed"):
        state.seal()
    state.apply()
    assert commit(state) == {b"xk": raw(3)}


def test_tables_do_not_meet(state: State) -> None:
    state.put(OTHERS, b"k", Tally(7))
    assert commit(state) == {b"yk": raw(7)}
    assert state.get(TALLIES, b"k") == Tally(1)
    assert list(state.keys(OTHERS)) == [b"k"]


def test_what_is_made_where_there_was_nothing_is_remembered(state: State) -> None:
    assert state.get_or_put(TALLIES, b"k", Tally) == Tally(1)
    state.get_or_put(TALLIES, b"new", Tally).count += 1
    assert commit(state) == {b"xk": raw(1), b"xnew": raw(1)}


def test_loaded_counts_what_is_held_as_objects(state: State) -> None:
    state.peek(TALLIES, b"k")
    assert state.loaded() == 0
    state.get(TALLIES, b"k")
    state.get(TALLIES, b"none")
    state.delete(TALLIES, b"gone")
    assert state.loaded() == 2  # k, and that gone is deleted
    commit(state)
    assert state.loaded() == 0


def test_a_changelog_restores_what_was_committed(state: State) -> None:
    log = [(b"xa", raw(1)), (b"xb", raw(2)), (b"xa", None), (b"xa", raw(3)), (b"xk", None)]
    state.restore(log)
    assert dict(zip("akb", state.get_many(TALLIES, [b"a", b"k", b"b"]), strict=True)) == {
        "a": Tally(3),
        "k": None,
        "b": Tally(2),
    }


def test_a_prefix_is_one_byte() -> None:
    with pytest.raises(ValueError, match="one byte"):
        Table(b"xy", Tally)

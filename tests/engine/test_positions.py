"""Where reading goes on, and what is missing: every way the offsets and the state may differ."""

import pytest

from streams.engine.positions import Gap, Log, Missing, Position, Start, decide, tell
from streams.engine.types import TP
from streams.kafka.protocol import CommittedOffset

OLD, NEW = b"1" * 16, b"2" * 16

NOTHING = CommittedOffset(-1, "", True)


def ours(offset: int) -> CommittedOffset:
    return CommittedOffset(offset, "g-w1", True, has_position=True)


def of_0_1_0(offset: int) -> CommittedOffset:
    return CommittedOffset(offset, "g-w1", True)


def by_hand(offset: int) -> CommittedOffset:
    return CommittedOffset(offset, "", True)


def at(offset: int, topic_id: bytes = OLD, *, is_begun: bool = True) -> Position:
    return Position(offset, topic_id, is_begun)


WHOLE = Log(0, 50, OLD)


@pytest.mark.parametrize(
    ("committed", "known", "log", "decision"),
    [
        # Nothing was ever read.
        (NOTHING, None, Log(7, 50, OLD), Start(7, is_new=True)),
        (ours(7), at(7, is_begun=False), Log(7, 50, OLD), Start(7, is_new=True)),
        # They agree.
        (ours(20), at(20), WHOLE, Start(20, is_new=False)),
        (ours(50), at(50), WHOLE, Start(50, is_new=False)),
        (ours(20), at(20), Log(20, 20, OLD), Start(20, is_new=False)),  # all of it was deleted
        (ours(20), at(20, b""), WHOLE, Start(20, is_new=False)),  # brokers without ids
        (ours(20), at(20), Log(0, 50, b""), Start(20, is_new=False)),
        # The offsets expired, or lost their end: the state knows.
        (NOTHING, at(20), WHOLE, Start(20, is_new=False)),
        (ours(10), at(20), WHOLE, Start(20, is_new=False)),
        # The state lost what was written with the offsets.
        (ours(30), at(20), WHOLE, Missing.STATE_BEHIND),
        (ours(30), None, WHOLE, Missing.STATE_BEHIND),
        # 0.1.0 went on without writing positions, or wrote them all.
        (of_0_1_0(30), at(20), WHOLE, Start(30, is_new=False)),
        (of_0_1_0(30), None, WHOLE, Start(30, is_new=False)),
        # Somebody decided.
        (by_hand(10), at(20), WHOLE, Start(10, is_new=False, is_decided=True)),
        (by_hand(30), None, WHOLE, Start(30, is_new=False, is_decided=True)),
        (
            by_hand(0),
            at(20),
            Log(0, 5, NEW),
            Start(0, is_new=False, is_another_topic=True, is_decided=True),
        ),
        # The same number by chance: whose offset it is counts.
        (
            by_hand(20),
            at(20),
            Log(0, 20, NEW),
            Start(20, is_new=False, is_another_topic=True, is_decided=True),
        ),
        # Made anew, also where nothing was read of the one before.
        (ours(20), at(20), Log(0, 50, NEW), Missing.MADE_ANEW),
        (NOTHING, at(20), Log(0, 50, NEW), Missing.MADE_ANEW),
        (ours(0), at(0, is_begun=False), Log(0, 50, NEW), Missing.MADE_ANEW),
        # Deleted before they were read.
        (ours(20), at(20), Log(21, 50, OLD), Missing.DELETED_UNREAD),
        (NOTHING, at(20), Log(22, 50, OLD), Missing.DELETED_UNREAD),
        (ours(0), at(0, is_begun=False), Log(3, 50, OLD), Missing.DELETED_UNREAD),
        (by_hand(20), None, Log(21, 50, OLD), Missing.DELETED_UNREAD),
        # ... but the single offset behind what only we write is a marker,
        (ours(20), at(20), Log(21, 50, OLD, is_written=True), Start(21, is_new=False)),
        (ours(20), at(20), Log(22, 50, OLD, is_written=True), Missing.DELETED_UNREAD),
        # in a topic that others write too only 0.1.0 stopped before it.
        (of_0_1_0(20), None, Log(21, 21, OLD, True, True), Start(21, is_new=False)),
        (of_0_1_0(20), None, Log(22, 22, OLD, True, True), Missing.DELETED_UNREAD),
        (ours(20), at(20), Log(21, 21, OLD, True, True), Missing.DELETED_UNREAD),
        (of_0_1_0(20), None, Log(21, 21, OLD), Missing.DELETED_UNREAD),
        # The log ends before what was read.
        (ours(60), at(60), WHOLE, Missing.CUT_SHORT),
        (of_0_1_0(60), None, WHOLE, Missing.CUT_SHORT),
    ],
)
def test_where_reading_goes_on(
    committed: CommittedOffset, known: Position | None, log: Log, decision: Start | Missing
) -> None:
    assert decide(committed, known, log) == decision


def test_a_record_known_to_be_unfinished_is_never_taken_for_a_marker() -> None:
    log = Log(21, 50, OLD, is_written=True)
    assert decide(ours(20), at(20), log, unfinished=[20, 33]) is Missing.DELETED_UNREAD
    assert decide(of_0_1_0(20), None, log, unfinished=[20]) is Missing.DELETED_UNREAD
    assert decide(ours(20), at(20), log, unfinished=[19, 33]) == Start(21, is_new=False)


def test_a_partition_without_a_state_goes_by_the_offsets_alone() -> None:
    assert decide(ours(30), None, WHOLE, has_state=False) == Start(30, is_new=False)


def test_one_line_names_what_is_missing_and_the_commands() -> None:
    said = tell(
        [
            Gap(Missing.DELETED_UNREAD, TP("calls", 3), 3, 6, 8),
            Gap(Missing.DELETED_UNREAD, TP("calls", 1), 3, 6, 8),
            Gap(Missing.MADE_ANEW, TP("accounts", 1), 9, 0, 0),
        ],
        group="g",
        changelog="g-changelog",
        read_first=["accounts"],
        brokers="b:9092",
    )
    reset = "kafka-consumer-groups --bootstrap-server b:9092 --group g --reset-offsets --execute"
    assert "accounts was deleted or made anew" in said
    assert "goes on at offset 3, but the log holds 6 to 8" in said
    assert f"`{reset} --topic accounts --topic calls:1,3 --to-earliest`" in said
    assert "\n" not in said

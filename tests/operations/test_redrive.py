"""Dead letters are sent again exactly once, byte for byte, and not where that would be wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from agents.settle import UNCERTAIN
from app.errors import CommandError
from app.operations import redrive
from app.operations.installation import open_installation
from app.operations.letter_writer import LetterWriter
from app.operations.letters import LetterFilter, find_letters, read_letter
from app.operations.transactional_producer import (
    FENCED,
    Outgoing,
    close_producer,
    open_producer,
    send_all,
)
from streams.topics import partition_of
from tests.cli.test_commands import dialwatch
from tests.installation import Installation, Published
from tests.operations.letters import actions, bury, command, ended, letter, order, records_of
from tests.samples import account, recharge

pytestmark = pytest.mark.broker

OWN = [("trace", b"\x00\xff"), ("dialwatch.cause", b"call-records/3/7"), ("trace", b"")]
RUBBISH = b'{"half a surr\xff'


async def listed(installation: Installation, **given: Any) -> list[dict[str, Any]]:
    """What `dlq list` says."""
    async with open_installation(installation.settings()) as connected:
        return await find_letters(connected, LetterFilter(**given))


async def test_a_letter_goes_to_where_it_came_from_byte_for_byte_with_its_own_headers(
    installation: Installation,
) -> None:
    calls, ticks = installation.topics.calls, installation.topics.ticks
    keyed = letter(calls, b"acme", RUBBISH, headers=OWN, partition=2)
    keyless = letter(ticks, None, b"", partition=3)
    second = letter(calls, b"bob", b"x", headers=[*OWN, ("dialwatch.attempts", b"1")])
    names = await bury(installation, keyed, keyless, second)
    plan = await order(installation)
    assert actions(plan) == dict.fromkeys(names, "redrive")
    assert plan["counts"] == {"redrive": 3, "refused": 0, "handled": 0}
    assert await records_of(installation, "call-records") == []  # a plan does nothing
    assert await listed(installation) != []

    # Named twice, and otherwise: it is one letter.
    both = [names[0], *(f"0{name}" for name in names[:2]), names[0].replace(":", ":00")]
    plan = await order(installation, *both)
    assert [row["letter"] for row in plan["letters"]] == sorted(names[:2])
    assert plan["counts"] == {"redrive": 2, "refused": 0, "handled": 0}

    done = await order(installation, execute=True)
    assert actions(done) == dict.fromkeys(names, "redrive")
    by_key = {one.key: one for one in await records_of(installation, "call-records")}
    assert by_key[b"acme"].value == RUBBISH
    assert list(by_key[b"acme"].headers) == [*OWN, ("dialwatch.attempts", b"1")]
    assert list(by_key[b"bob"].headers) == [*OWN, ("dialwatch.attempts", b"2")]
    (tick,) = await records_of(installation, "ticks")
    assert (tick.partition, tick.key, tick.value) == (3, None, b"")
    assert await listed(installation) == []
    assert {one["handled"] for one in await listed(installation, with_handled=True)} == {"redriven"}

    again = await order(installation, *names, execute=True)
    assert actions(again) == dict.fromkeys(names, "handled")
    assert len(await records_of(installation, "call-records")) == 2


async def test_two_who_redrive_at_once_handle_each_letter_once(installation: Installation) -> None:
    calls = installation.topics.calls
    await bury(installation, *(letter(calls, b"k%d" % n, b"%d" % n) for n in range(450)))
    ended_so = await asyncio.gather(
        *(order(installation, execute=True) for _ in range(2)), return_exceptions=True
    )
    for one in ended_so:
        assert not isinstance(one, BaseException) or isinstance(one, CommandError), one
    assert any(not isinstance(one, BaseException) for one in ended_so)
    await order(installation, execute=True)
    values = [one.value for one in await records_of(installation, "call-records")]
    assert sorted(values) == sorted(b"%d" % n for n in range(450))


async def test_a_command_that_is_fenced_while_it_sends_says_so(installation: Installation) -> None:
    """More than one batch, so that Kafka's answer to the first comes before the last is sent."""
    settings, topic = installation.settings(), installation.topics.calls
    first = await open_producer(settings, "dead-letters")
    second = None
    try:
        await first.begin_transaction()
        second = await open_producer(settings, "dead-letters")
        with pytest.raises(FENCED):
            await send_all(first, (Outgoing(topic, 0, b"acme", bytes(1000)) for _ in range(500)))
    finally:
        await close_producer(first)
        await close_producer(second)
    assert await records_of(installation, "call-records") == []


@pytest.mark.parametrize("point", ["before-commit", "after-commit"])
def test_a_redrive_that_is_killed_and_run_again_handles_each_letter_once(
    point: str, installation: Installation, tmp_path: Path
) -> None:
    calls = installation.topics.calls
    letters = [letter(calls, b"acme", b"%d" % n) for n in range(250)]
    asyncio.run(bury(installation, *letters))
    for crash in ({"DIALWATCH_TEST_CRASH_AT": f"{point}:2"}, {}):
        ran = dialwatch(
            "dlq", "redrive", "--execute", directory=tmp_path,
            variables=installation.variables | crash,
        )  # fmt: skip
        assert ran.returncode == (-9 if crash else 0), ran.stderr
    values = [one.value for one in asyncio.run(records_of(installation, "call-records"))]
    assert values == [one.value for one in letters]  # in their order, too
    # The first 200 are one transaction, the rest the second, which the kill hit.
    left = 0 if point == "after-commit" else 50
    assert f"{left} redriven, 0 refused, 0 handled" in ran.stderr


def test_a_redrive_that_was_frozen_and_wakes_up_after_another_did_it_does_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    calls = installation.topics.calls
    asyncio.run(bury(installation, *(letter(calls, b"acme", b"%d" % n) for n in range(3))))
    command = [sys.executable, "-m", "app.cli", "dlq", "redrive", "--execute"]
    frozen_at = {"DIALWATCH_TEST_FREEZE_AT": "before-commit:1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=installation.environment() | frozen_at,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        try:
            os.waitid(os.P_PID, first.pid, os.WSTOPPED)
            second = dialwatch(
                "dlq", "redrive", "--execute", directory=tmp_path, variables=installation.variables
            )
            assert second.stderr.splitlines()[-1].startswith("3 redriven")
        finally:
            first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=180)
    assert first.returncode == 1
    assert said.splitlines()[-1].startswith("dialwatch: another redrive or discard began")
    values = [one.value for one in asyncio.run(records_of(installation, "call-records"))]
    assert values == [b"0", b"1", b"2"]


async def test_whoever_must_open_again_sees_what_another_did_meanwhile(
    installation: Installation,
) -> None:
    """After a record that Kafka doesn't take the writer is a new one, and fences in its turn."""
    (name,) = await bury(installation, letter(installation.topics.calls, b"a", b"1"))
    async with open_installation(installation.settings()) as connected:
        found = await read_letter(connected, name)
        first, second = LetterWriter(connected), LetterWriter(connected)
        try:
            await first.open()
            await second.open()
            assert await second.handle("redrive", None, [found]) == {}
            await first.close()
            await first.open()
            assert name in await first.handle("redrive", None, [found])
        finally:
            await first.close()
            await second.close()
    assert len(await records_of(installation, "call-records")) == 1


async def test_what_was_discarded_is_not_sent_again_and_says_why(
    installation: Installation,
) -> None:
    calls = installation.topics.calls
    names = await bury(installation, letter(calls, b"a", b"1"), letter(calls, b"b", b"2"))
    done = await order(installation, names[0], verb="discard", why="a test's", execute=True)
    assert done["counts"] == {"discard": 1, "refused": 0, "handled": 0}
    assert actions(await order(installation, execute=True)) == {names[1]: "redrive"}
    (sent,) = await records_of(installation, "call-records")
    assert sent.value == b"2"
    (mark,) = [
        json.loads(one.value)
        for one in await installation.read_named(installation.topics.handled_letters)
        if one.key == names[0].encode()
    ]
    assert (mark["handled"], mark["why"]) == ("discarded", "a test's")


async def test_filters_choose_and_only_what_nobody_has_dealt_with(
    installation: Installation,
) -> None:
    topics = installation.topics
    call, tick = await bury(
        installation,
        letter(topics.calls, b"a", b"1", reason="phone: is missing"),
        letter(topics.ticks, None, b"2", reason="at: is missing"),
    )
    for wanted, expected in (
        (LetterFilter(topic="call-records"), {call}),
        (LetterFilter(topic=topics.ticks), {tick}),
        (LetterFilter(reason="PHONE"), {call}),
        (LetterFilter(reason="is missing"), {call, tick}),
        (LetterFilter(until=1), set()),
        (LetterFilter(since=1), {call, tick}),
        (LetterFilter(limit=1), {call}),
        (LetterFilter(topic="accounts"), set()),
    ):
        assert set(actions(await order(installation, wanted=wanted))) == expected, wanted


async def test_a_limit_counts_what_can_be_done_and_says_whether_there_is_more(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are refused before it: else these would keep the others for ever."""
    monkeypatch.setattr(redrive, "_FIRST_PAGE", 2)
    monkeypatch.setattr(redrive, "MOST_ROWS", 2)
    some = [letter(installation.topics.calls, b"a", b"%d" % n) for n in range(6)]
    refused = await bury(installation, *some[:3], more=[("dialwatch.truncated", b"9")])
    names = await bury(installation, *some[3:])
    wanted = LetterFilter(limit=2)
    plan = await order(installation, wanted=wanted)
    assert actions(plan) == dict.fromkeys(refused[:2], "refused") | dict.fromkeys(
        names[:2], "redrive"
    )
    assert plan["counts"] == {"redrive": 2, "refused": 3, "handled": 0}
    assert plan["has_more"]
    assert (await order(installation, wanted=wanted, verb="discard", why="x"))["has_more"]
    assert not (await order(installation, wanted=LetterFilter(limit=3)))["has_more"]
    for count, says in ((2, "; there are more of them, for another run"), (1, "before")):
        ran = dialwatch(
            "dlq", "redrive", "--limit", "2", "--execute",
            directory=tmp_path, variables=installation.variables,
        )  # fmt: skip
        assert ran.stderr.splitlines()[-1].startswith(f"{count} redriven, 3 refused, 0 handled")
        assert ran.stderr.rstrip().endswith(says)


async def test_what_would_be_wrong_is_refused_and_some_of_it_only_without_force(
    installation: Installation,
) -> None:
    topics = installation.topics
    await installation.publish([account("acme"), account("acme", name="2"), recharge("bob", "r1")])
    first = letter(topics.accounts, b"acme", b"x", partition=_partition(installation, b"acme"))
    newest = letter(
        topics.accounts, b"acme", b"x", partition=_partition(installation, b"acme"), offset=1
    )
    charge = letter(
        topics.recharges, b"bob", b"x", partition=_partition(installation, b"bob"), offset=0
    )
    tired = letter(topics.calls, b"a", b"1", headers=[("dialwatch.attempts", b"5")])
    foreign = letter("somewhere-else", b"a", b"1")
    no_place = letter(topics.ticks, None, b"1", partition=99)
    keyless = letter(topics.accounts, None, b"1")
    cases = [first, newest, charge, tired, foreign, no_place, keyless]
    names = await bury(installation, *cases)
    names += await bury(
        installation, letter(topics.calls, b"a", b"1"), more=[("dialwatch.truncated", b"9")]
    )
    refused, forced = await order(installation), await order(installation, force=True)
    never = {names[4], names[5], names[6], names[7]}
    assert {name for name, action in actions(forced).items() if action == "refused"} == never
    only_forced = {names[0], names[3]}
    assert {
        name for name, action in actions(refused).items() if action == "refused"
    } == never | only_forced
    why = {row["letter"]: row["why"] for row in refused["letters"]}
    assert "younger records" in why[names[0]]
    assert "6 times (--force" in why[names[3]]
    assert "truncated" in why[names[7]]


async def test_a_command_that_was_sent_is_never_sent_again_and_one_in_doubt_only_by_force(
    installation: Installation,
) -> None:
    topic = installation.topics.notifications
    ends: dict[str, list[tuple[Any, str | None]]] = {
        "sent": [("sent", None)],
        "told": [("sent", None), ("undelivered", "user block")],
        "twice": [("failed", "no"), ("sent", None)],
        "failed": [("failed", "no")],
        "doubt": [("failed", UNCERTAIN)],
        "skipped": [("failed", "no"), ("skipped", "no phone")],
        "gone": [],
    }
    for notification_id, some in ends.items():
        await ended(installation, notification_id, *some)
    deep = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"notification_id":"sent"}'
    await installation.publish([Published("deliveries", "acme", deep)])  # not by dialwatch
    letters = [letter(topic, b"acme", command(one)) for one in ends]
    invalid = letter(topic, b"acme", b"{}")  # it never was a command
    names = dict(zip([*ends, "invalid"], await bury(installation, *letters, invalid), strict=True))

    def refused(done: dict[str, Any]) -> set[str]:
        return {one for one, name in names.items() if actions(done)[name] == "refused"}

    never = {"sent", "told", "twice", "skipped"}
    assert refused(await order(installation)) == never | {"doubt", "gone"}
    assert refused(await order(installation, force=True, execute=True)) == never
    sent = [one.value for one in await records_of(installation, "notifications")]
    assert sent == [command("failed"), command("doubt"), command("gone"), b"{}"]


async def test_a_letter_that_kafka_does_not_take_stays_and_the_others_go(
    installation: Installation,
) -> None:
    calls = installation.topics.calls
    small, large, other = await bury(
        installation,
        letter(calls, b"a", b"1"),
        letter(calls, b"a", b"x" * (3 << 19)),  # the topic takes 1 MiB
        letter(calls, b"a", b"2"),
    )
    done = await order(installation, execute=True)
    assert actions(done) == {small: "redrive", large: "refused", other: "redrive"}
    assert [one.value for one in await records_of(installation, "call-records")] == [b"1", b"2"]
    (left,) = await listed(installation)
    assert left["letter"] == large


async def test_a_list_that_is_cut_says_so(installation: Installation, tmp_path: Path) -> None:
    await bury(installation, *(letter(installation.topics.calls, b"a", b"1") for _ in range(3)))
    for limit, says in ((2, "there are more than these 2: --limit"), (3, "")):
        listing = dialwatch(
            "dlq", "list", "--limit", str(limit),
            directory=tmp_path, variables=installation.variables,
        )  # fmt: skip
        assert len(listing.stdout.splitlines()) == limit
        assert listing.stderr.startswith(says)
        assert bool(listing.stderr) is bool(says)


async def test_a_letter_that_is_not_there_is_one_line_whether_it_was_or_not(
    installation: Installation,
) -> None:
    (name,) = await bury(installation, letter(installation.topics.calls, b"a", b"1"))
    partition, offset = map(int, name.split(":"))
    for wrong, says in (
        (f"{partition}:{offset + 1}", "there is no letter"),
        (f"{partition}:{10**17}", "there is no letter"),
        ("99:0", "has 4 partitions"),
    ):
        with pytest.raises(CommandError, match=says):
            await order(installation, wrong)
    await order(installation, name, verb="discard", why="x", execute=True)
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.brokers)
    await admin.start()
    try:
        tp = TopicPartition(installation.topics.dead_letters, partition)
        await admin.delete_records({tp: RecordsToDelete(before_offset=offset + 1)})
    finally:
        await admin.close()
    with pytest.raises(CommandError, match="retention deleted"):
        await order(installation, name)
    # The mark of what is gone goes with the next order.
    await order(installation, execute=True)
    marks = await installation.read_named(installation.topics.handled_letters)
    assert [one.value for one in marks][-1] is None


def _partition(installation: Installation, key: bytes) -> int:

    return partition_of(key, installation.partitions)

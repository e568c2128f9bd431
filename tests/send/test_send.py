"""What becomes of commands: order, doubt, holds, a store that is away, partitions taken away."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from agents.channel import Bar, Entry, LaterWord, Message
from agents.outcomes import Held, Outcome, Refused, Sent, Skipped, TryLater, Unclear
from agents.send import MOST_OF_ONE, MOST_PENDING
from app.channels import sms
from app.http import Answer, retry_after_s
from streams.records import Account, Notification
from tests.send.fakes import FakeChannel, MemoryLedger, World, notification
from tests.virtual_time import run_virtually


def answering(*outcomes: Outcome, takes_s: float = 0.05) -> FakeChannel:
    """Return a channel that gives these outcomes one after the other, and the last for good."""
    left = list(outcomes)

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(takes_s)
        return left.pop(0) if len(left) > 1 else left[0]

    return FakeChannel(answer)


def one_command(channel: FakeChannel, ledger: MemoryLedger | None = None) -> World:
    """Bring one command to its end."""
    world = World(channel, ledger)

    async def main() -> None:
        world.take(notification("n1", "a"))
        await world.done()

    run_virtually(main())
    return world


def test_a_message_that_was_taken_ends_as_sent_with_the_providers_id() -> None:
    world = one_command(FakeChannel())
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.attempts, delivery.provider_id) == ("sent", 1, "msg-n1")
    assert delivery.at == "2019-01-30T15:52:10.050+08:00"
    assert world.outputs[0].key == b"a"


@pytest.mark.parametrize(
    ("outcome", "status", "error", "attempts"),
    [
        (Skipped("unsubscribed"), "skipped", "unsubscribed", 1),
        (Refused("no", 43004), "failed", "no", 1),
        (TryLater("unknown", most_tries=3, error_code=1), "failed", "unknown", 3),
    ],
)
def test_every_way_to_end_says_why(
    outcome: Outcome, status: str, error: str, attempts: int
) -> None:
    (delivery,) = one_command(answering(outcome)).deliveries()
    assert (delivery.status, delivery.error, delivery.attempts) == (status, error, attempts)


def test_a_command_given_up_is_a_dead_letter_too_byte_for_byte() -> None:
    world = one_command(answering(Refused("data.thing1.value invalid", 47003)))
    (letter,) = [output for output in world.outputs if output.topic == "dead-letters"]
    headers = dict(letter.headers)
    assert msgspec.json.decode(letter.value or b"")["notification_id"] == "n1"
    assert headers["dialwatch.reason"] == b"47003: data.thing1.value invalid"
    assert headers["dialwatch.topic"] == b"g-wechat-outbox"
    assert headers["dialwatch.offset"] == b"0"


def test_a_customer_without_openid_is_skipped_without_an_attempt() -> None:
    world = World()
    world.accounts["a"] = Account("a", "甲")

    async def main() -> None:
        world.take(notification("n1", "a"))
        await world.done()

    run_virtually(main())
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.error, delivery.attempts) == ("skipped", "no openid", 0)
    assert world.channel.attempts == []


def test_the_account_is_looked_up_when_it_is_sent() -> None:
    world = World(answering(TryLater("busy", error_code=-1), Sent("1")))
    recipients = []
    first = world.channel.answer
    assert first is not None

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        recipients.append(message.recipient)
        world.accounts["a"] = Account("a", "甲", openid="o-new")
        return await first(message, is_repeat)

    world.channel.answer = answer

    async def main() -> None:
        world.take(notification("n1", "a"))
        await world.done()

    run_virtually(main())
    assert recipients == ["o-a", "o-new"]


def test_the_providers_word_that_came_before_its_answer_follows_it() -> None:
    ledger = MemoryLedger()
    ledger.words["word-n1"] = LaterWord("undelivered", "failed:user block")
    world = one_command(FakeChannel(), ledger)
    assert "claim-n1" in ledger.claims
    assert world.statuses() == {"n1": ["sent", "undelivered"]}
    assert world.deliveries()[1].error == "failed:user block"
    assert world.deliveries()[1].provider_id == "msg-n1"


def test_retries_back_off_from_one_second_to_thirty() -> None:
    busy = TryLater("system busy", error_code=-1)
    world = one_command(answering(*[busy] * 8, Sent("1"), takes_s=0))
    moments = world.channel.moments("n1")
    pauses = [round(b - a, 3) for a, b in pairwise(moments)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert [is_repeat for _, _, is_repeat in world.channel.attempts] == [False] * 9
    assert world.deliveries()[0].attempts == 9


def test_after_ten_minutes_of_doubt_a_message_ends_as_failed_uncertain() -> None:
    world = one_command(answering(Unclear("ReadTimeout"), takes_s=10))
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.error) == ("failed", "uncertain")
    moments = world.channel.moments("n1")
    assert moments[-1] < 600 <= world.finished[0, 0] <= 620
    assert [is_repeat for _, _, is_repeat in world.channel.attempts][:3] == [False, True, True]


def test_what_was_refused_for_hours_without_doubt_is_still_sent() -> None:
    busy = TryLater("system busy", error_code=-1)
    world = one_command(answering(*[busy] * 300, Sent("1")))
    assert world.finished[0, 0] > 7200
    assert world.statuses() == {"n1": ["sent"]}


def test_an_answer_that_it_was_not_taken_does_not_end_an_older_doubt() -> None:
    world = one_command(answering(Unclear("ReadTimeout"), TryLater("busy", error_code=-1)))
    assert world.deliveries()[0].error == "uncertain"
    assert 600 <= world.finished[0, 0] < 601


def test_a_provider_that_drops_repeats_for_good_is_asked_until_it_answers() -> None:
    channel = answering(*[Unclear("ReadTimeout")] * 400, Sent("1"))
    channel.doubt_limit_s = None
    world = one_command(channel)
    assert world.finished[0, 0] > 3600
    assert world.statuses() == {"n1": ["sent"]}


def test_a_customers_commands_go_in_order_and_none_is_lost() -> None:
    world = World(answering(Unclear("t"), Sent("1"), Refused("x", 40003), Sent("3")))

    async def main() -> None:
        world.take(*[notification(f"n{i}", "a") for i in range(4)])
        await world.done()

    run_virtually(main())
    assert [delivery.notification_id for delivery in world.deliveries()] == ["n0", "n1", "n2", "n3"]
    assert world.channel.most_under_way == 1


def test_customers_with_trouble_delay_nobody_else() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if message.recipient.startswith("o-bad"):
            await asyncio.sleep(10)
            return Unclear("ReadTimeout")
        await asyncio.sleep(0.05)
        return Sent("1")

    world = World(FakeChannel(answer), most_at_once=8)

    async def main() -> None:
        world.take(*[notification(f"bad{i}", f"bad{i}") for i in range(3)])
        world.take(*[notification(f"n{i}", f"good{i}") for i in range(100)], offset=10)
        await asyncio.sleep(2)
        assert len(world.finished) == 100
        await world.done()

    run_virtually(main())
    assert sum(status == ["sent"] for status in world.statuses().values()) == 100


def test_no_more_than_so_many_are_sent_at_once() -> None:
    world = World(most_at_once=8)

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(100)])
        await world.done()

    run_virtually(main())
    assert world.channel.most_under_way == 8
    assert len(world.finished) == 100


def test_a_recipient_that_must_be_left_alone_takes_nobodys_place() -> None:
    world = World(FakeChannel(pauses={"o-slow": 60.0}), most_at_once=1)

    async def main() -> None:
        world.take(notification("n0", "slow"), notification("n1", "a"))
        await world.done()

    run_virtually(main())
    assert world.channel.moments("n1") == [0.0]
    assert world.channel.moments("n0") == [60.0]


def test_a_hold_stops_everybody_counts_as_no_attempt_and_loses_nothing() -> None:
    hold = Held("daily quota", 3600, 45009)
    world = World(answering(hold, hold, Sent("1")), most_at_once=1)

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(20)])
        await asyncio.sleep(1)
        (view,) = world.agent.holds()
        assert (view.channel, view.reason, view.scope) == ("wechat", "45009", None)
        assert view.detail == "daily quota"
        assert view.until == "2019-01-30T16:52:10.050000+08:00"
        await world.done()
        assert world.agent.holds() == []

    run_virtually(main())
    moments = [moment for moment, _, _ in world.channel.attempts]
    # One finds out; one probe an hour later is told the same; the probe after it opens.
    assert [round(moment) for moment in moments[:3]] == [0, 3600, 7200]
    assert all(delivery.attempts == 1 for delivery in world.deliveries())
    assert all(status == ["sent"] for status in world.statuses().values())


def test_what_one_agent_of_a_channel_learns_holds_the_other_too() -> None:
    channel = answering(Held("daily quota", 60, 45009), Sent("1"))
    urgent, bulk = World(channel), World(channel)
    other = World(FakeChannel())

    async def main() -> None:
        urgent.take(notification("n0", "a"))
        await asyncio.sleep(1)
        bulk.take(*[notification(f"b{i}", f"b{i}") for i in range(20)])
        other.take(notification("o", "a"))
        await asyncio.sleep(30)
        # As one: the page shows each hold once.
        assert urgent.agent.holds() == bulk.agent.holds() != []
        assert other.agent.holds() == []
        await urgent.done()
        await bulk.done()
        await other.done()

    run_virtually(main())
    moments = [round(moment) for moment, _, _ in channel.attempts]
    # One finds out; after a minute one probe of the two agents opens for both.
    assert moments[:2] == [0, 60]
    assert len(moments) == 1 + 1 + 20
    assert channel.moments("n0")[1] == pytest.approx(60, abs=0.2)
    assert {status for world in (urgent, bulk) for (status,) in world.statuses().values()} == {
        "sent"
    }


def test_a_repeat_that_the_store_delays_beyond_ten_minutes_is_not_sent() -> None:
    world = World(answering(Unclear("ReadTimeout"), takes_s=10))

    async def main() -> None:
        world.take(notification("n1", "a"))
        await asyncio.sleep(5)
        world.ledger.is_away = True  # so that what is tried next is first written down
        await asyncio.sleep(700)
        world.ledger.is_away = False
        await world.done()

    run_virtually(main())
    assert world.channel.moments("n1") == [0]
    assert world.deliveries()[0].error == "uncertain"


def test_no_attempt_is_under_way_when_the_doubt_is_too_old() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if not is_repeat:
            return Unclear("ReadTimeout")
        await asyncio.sleep(5000)  # the pace is slow, the token is renewed, …
        raise AssertionError("was sent")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(notification("n1", "a"))
        await world.done()

    run_virtually(main())
    assert world.deliveries()[0].error == "uncertain"
    assert world.finished[0, 0] == pytest.approx(600)


class _AwayAtTheFirstWrite(MemoryLedger):
    """Whether it has taken it then, nobody is told."""

    def __init__(self, *, has_taken_it: bool) -> None:
        super().__init__()
        self._has_taken_it = has_taken_it
        self.questions_to_write = 0

    async def write(self, *question: Any, **more: Any) -> Entry | Bar | None:
        self.questions_to_write += 1
        if self.questions_to_write == 1:
            if self._has_taken_it:
                await super().write(*question, **more)
            self.is_away = True
            asyncio.get_running_loop().call_later(900, setattr, self, "is_away", False)
        return await super().write(*question, **more)


@pytest.mark.parametrize("has_taken_it", [False, True])
def test_a_store_that_is_away_before_the_first_attempt_makes_no_doubt(has_taken_it: bool) -> None:
    ledger = _AwayAtTheFirstWrite(has_taken_it=has_taken_it)
    world = one_command(answering(Unclear("ReadTimeout"), Sent("1")), ledger)
    assert world.channel.moments("n1")[0] >= 900
    assert [is_repeat for _, _, is_repeat in world.channel.attempts] == [False, True]
    assert world.statuses() == {"n1": ["sent"]}


def test_a_message_that_gets_through_asks_the_store_twice() -> None:
    world = one_command(FakeChannel())
    assert world.ledger.questions == 2


def test_who_is_barred_is_skipped_and_no_attempt_is_made() -> None:
    ledger = MemoryLedger()
    ledger.bars.add("bar-o-a")
    world = one_command(FakeChannel(), ledger)
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.error, delivery.attempts) == ("skipped", "no", 0)
    assert world.channel.attempts == []
    assert one_command(FakeChannel(), ledger).outputs == world.outputs


def test_who_is_barred_after_an_attempt_in_doubt_stays_in_doubt() -> None:
    ledger = MemoryLedger()

    async def main() -> None:
        first = World(answering(Sent("1"), takes_s=100), ledger)
        first.take(notification("n1", "a"))
        await asyncio.sleep(1)
        await first.agent.on_revoked([0])
        ledger.bars.add("bar-o-a")
        second = World(ledger=ledger)
        second.take(notification("n1", "a"))
        await second.done()
        assert second.channel.attempts == []
        assert second.deliveries()[0].error == "uncertain"

    run_virtually(main())


def test_behind_a_hold_nobody_waits_who_has_nothing_to_wait_for() -> None:
    """Some are waiting already when it begins, for a place; others come later."""
    ledger = MemoryLedger()
    one_command(FakeChannel(), ledger)

    async def main() -> None:
        world = World(answering(Held("quota", 3600, 45009), Sent("1"), takes_s=1), ledger,
                      most_at_once=1)  # fmt: skip
        world.take(notification("n2", "b"))
        await asyncio.sleep(0.5)
        world.take(notification("n1", "a"), offset=1)
        await asyncio.sleep(1)
        assert world.finished == {(0, 1): pytest.approx(1.0, abs=0.1)}
        world.take(notification("n1", "c"), offset=2)
        await asyncio.sleep(1)
        assert set(world.finished) == {(0, 1), (0, 2)}
        await world.done()
        assert len(world.channel.attempts) == 2

    run_virtually(main())


def test_a_hold_of_one_template_leaves_the_others_alone() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        is_held = message.scope == "bad" and asyncio.get_running_loop().time() < 100
        return Held("template", 60, 43116, scope="bad") if is_held else Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"b{i}", f"a{i}", template_id="bad") for i in range(20)])
        world.take(*[notification(f"n{i}", f"c{i}") for i in range(20)], offset=100)
        await asyncio.sleep(1)
        assert len(world.finished) == 20
        assert [hold.scope for hold in world.agent.holds()] == ["bad"]
        await world.done()

    run_virtually(main())
    assert all(status == ["sent"] for status in world.statuses().values())


def test_a_provider_that_is_away_buries_only_what_it_may_have() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if asyncio.get_running_loop().time() < 1800:
            return Unclear("HTTP 503", 503)
        return Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(1000)])
        await asyncio.sleep(60)
        assert [hold.reason for hold in world.agent.holds()] == ["away"]
        await world.done()

    run_virtually(main())
    buried = [delivery for delivery in world.deliveries() if delivery.status == "failed"]
    assert {delivery.error for delivery in buried} == {"uncertain"}
    # 8 at once when it began, then a probe every 15 s at most, half of them of what is in doubt.
    assert len(buried) <= 8 + 1800 / 12 / 2
    assert len(world.finished) == 1000
    assert max(world.finished.values()) < 1830


def test_a_provider_that_cannot_be_reached_buries_nothing() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if asyncio.get_running_loop().time() < 7200:
            return TryLater("ConnectError")
        return Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(1000)])
        await world.done()

    run_virtually(main())
    assert all(status == ["sent"] for status in world.statuses().values())
    assert len(world.channel.attempts) < 1000 + 8 + 7200 / 11
    assert max(world.finished.values()) < 7300


def test_trouble_of_a_few_customers_only_does_not_hold_the_channel() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        return Unclear("ReadTimeout") if message.recipient.startswith("o-bad") else Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"bad{i}", f"bad{i}") for i in range(4)])
        for number in range(50):
            world.take(notification(f"n{number}", "a"), offset=100 + number)
            await asyncio.sleep(10)
            assert world.agent.holds() == []
        await world.done()

    run_virtually(main())


def test_while_redis_is_away_nothing_is_begun_and_nobody_hammers_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="agents.patience")
    world = World()
    world.ledger.is_away = True

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(500)])
        await asyncio.sleep(600)
        assert world.channel.attempts == []
        assert world.agent.store_is_away
        assert world.ledger.questions < 16 + 600 / 2
        world.ledger.is_away = False
        await world.done()

    run_virtually(main())
    assert all(status == ["sent"] for status in world.statuses().values())
    assert len(world.finished) == 500
    # One line when it went away, one when it came back.
    assert len(caplog.messages) == 2


def test_redis_going_away_after_the_sending_delays_the_delivery_but_loses_nothing() -> None:
    world = World()

    async def main() -> None:
        world.take(notification("n1", "a"))
        await asyncio.sleep(0.01)
        world.ledger.is_away = True
        await asyncio.sleep(100)
        assert world.finished == {}
        world.ledger.is_away = False
        await world.done()

    run_virtually(main())
    assert len(world.channel.attempts) == 1
    assert world.statuses() == {"n1": ["sent"]}


def test_a_lost_commit_brings_the_same_delivery_again_without_sending() -> None:
    ledger = MemoryLedger()
    first = one_command(FakeChannel(), ledger)
    second = one_command(FakeChannel(), ledger)
    assert second.channel.attempts == []
    assert second.outputs == first.outputs


def test_the_same_notification_from_another_record_is_a_repeat_and_leaves_no_trace() -> None:
    ledger = MemoryLedger()
    one_command(FakeChannel(), ledger)
    world = World(ledger=ledger)

    async def main() -> None:
        world.take(notification("n1", "a"), offset=7)
        await world.done()

    run_virtually(main())
    assert world.outputs == []
    assert list(world.finished) == [(0, 7)]
    assert world.channel.attempts == []


def test_what_was_begun_and_cut_off_is_sent_again_within_ten_minutes_as_a_repeat() -> None:
    ledger = MemoryLedger()

    async def main() -> None:
        first = World(answering(Sent("1"), takes_s=100), ledger)
        first.take(notification("n1", "a"))
        await asyncio.sleep(1)
        await first.agent.on_revoked([0])
        assert first.finished == {}
        second = World(ledger=ledger)
        second.take(notification("n1", "a"))
        await second.done()
        assert [is_repeat for _, _, is_repeat in second.channel.attempts] == [True]
        assert second.deliveries()[0].attempts == 2

    run_virtually(main())


def test_what_was_begun_longer_ago_is_never_sent_again() -> None:
    ledger = MemoryLedger()

    async def main() -> None:
        first = World(answering(Sent("1"), takes_s=100), ledger)
        first.take(notification("n1", "a"))
        await asyncio.sleep(1)
        await first.agent.on_revoked([0])
        await asyncio.sleep(600)
        second = World(ledger=ledger)
        second.take(notification("n1", "a"))
        await second.done()
        assert second.channel.attempts == []
        assert second.deliveries()[0].error == "uncertain"

    run_virtually(main())


def test_revocation_lets_what_is_under_way_finish_and_stops_the_rest() -> None:
    async def main() -> None:
        world = World(answering(Sent("1"), takes_s=1), most_at_once=2)
        world.take(*[notification(f"n{i}", f"a{i % 3}") for i in range(9)])
        world.take(notification("p", "b"), partition=1)
        await asyncio.sleep(0.5)
        await world.agent.on_revoked([0])
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        assert list(world.finished) == [(0, 0), (0, 1)]
        assert world.agent.pending(0) == 0
        await world.done(1)
        assert (1, 0) in world.finished
        # Given again, each of the others ends once.
        world.agent.on_assigned(0)
        world.take(*[notification(f"n{i}", f"a{i % 3}") for i in range(2, 9)], offset=2)
        await world.done()
        assert len(world.channel.attempts) == 10
        assert all(status == ["sent"] for status in world.statuses().values())

    run_virtually(main())


def test_revocation_takes_three_seconds_at_most() -> None:
    async def main() -> None:
        world = World(answering(Unclear("t"), takes_s=10), most_at_once=2)
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(9)])
        await asyncio.sleep(0.5)
        await world.agent.on_revoked([0])
        assert asyncio.get_running_loop().time() == pytest.approx(3.5)
        assert world.finished == {}
        entry = msgspec.json.decode(world.ledger.entries["n0"], type=Entry)
        assert (entry.attempts, entry.deliveries) == (1, None)

    run_virtually(main())


def test_revocation_during_a_hold_is_immediate() -> None:
    async def main() -> None:
        world = World(answering(Held("quota", 3600, 45009), Sent("1")), most_at_once=1)
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(9)])
        await asyncio.sleep(1)
        await world.agent.on_revoked([0])
        assert asyncio.get_running_loop().time() == pytest.approx(1)
        world.agent.on_assigned(0)
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(9)])
        await world.done()
        assert len(world.finished) == 9

    run_virtually(main())


def test_a_bug_costs_one_message_and_tells_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        if message.message_id == "n0":
            raise KeyError("access_token=SECRET")
        return Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"n{i}", "a") for i in range(3)])
        await world.done()

    run_virtually(main())
    # It was being sent: WeChat may have taken it.
    assert world.deliveries()[0].error == "uncertain"
    assert list(world.statuses().values()) == [["failed"], ["sent"], ["sent"]]
    assert "SECRET" not in caplog.text


def test_what_a_bug_ended_before_it_was_sent_may_be_sent_again() -> None:
    def broken(command: Notification, account: Account | None) -> Message | Skipped | Refused:
        raise KeyError("x")

    world = World()
    prepare = world.channel.prepare

    async def main() -> None:
        world.channel.prepare = broken  # type: ignore[method-assign]
        world.take(notification("n", "a"))
        await world.done()
        world.channel.prepare = prepare  # type: ignore[method-assign]
        world.take(notification("n", "a"), offset=7, headers=[("dialwatch.attempts", b"1")])
        await world.done()

    run_virtually(main())
    assert world.statuses() == {"n": ["failed", "sent"]}
    assert world.deliveries()[0].error == "internal error: KeyError"


def test_a_bug_takes_no_end_from_another_record() -> None:
    def broken(command: Notification, account: Account | None) -> Message | Skipped | Refused:
        raise KeyError("x")

    world = World()

    async def main() -> None:
        world.take(notification("n", "a"))
        await world.done()
        world.channel.prepare = broken  # type: ignore[method-assign]
        world.take(notification("n", "a"), offset=7)
        await world.done()

    run_virtually(main())
    assert world.statuses() == {"n": ["sent"]}


def test_a_bug_outside_of_a_command_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the lane's commands would wait for ever, and nobody would know.
    world = World()
    monkeypatch.setattr(world.agent, "_outputs", lambda *_: 1 // 0)

    async def main() -> None:
        world.take(notification("n", "a"))
        await asyncio.sleep(1)

    run_virtually(main())
    assert [type(error) for error in world.crashes] == [ZeroDivisionError]


def test_null_attempts_are_none() -> None:
    world = World()

    async def main() -> None:
        world.take(notification("n", "a"), headers=[("dialwatch.attempts", None)])
        await world.done()

    run_virtually(main())
    assert world.statuses() == {"n": ["sent"]}


def test_who_asks_to_be_asked_again_at_once_is_asked_less_and_less() -> None:
    refused = sms.outcome(Answer(429, None, retry_after_s("0")))

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.02)
        return refused

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"n{number}", f"a{number}") for number in range(50)])
        await asyncio.sleep(600)
        await world.agent.on_revoked([0])

    run_virtually(main())
    assert len(world.channel.attempts) < 150


def test_a_direct_message_takes_its_openids_turn() -> None:
    world = World()

    async def main() -> None:
        world.take(notification("n1", "a").__class__(**_direct("n1")))
        await world.done()

    run_virtually(main())
    (delivery,) = world.deliveries()
    assert (delivery.account_id, delivery.scenario, delivery.status) == (None, "direct", "sent")


def _direct(notification_id: str) -> dict[str, object]:
    fields = msgspec.structs.asdict(notification(notification_id, "a"))
    return fields | {"account_id": None, "scenario": "direct", "openid": "o-1"}


BUSY = TryLater("system busy", None, -1, 5, is_general=True)
LIMITED = TryLater("too often", 3600, 43117, 2, is_recipients=True)


def ends(world: World) -> dict[str, str | int | None]:
    """Return how each notification ended: `sent`, or the code (else the error) it failed with."""
    return {
        one.notification_id: one.status if one.status == "sent" else one.error_code or one.error
        for one in world.deliveries()
    }


@pytest.mark.parametrize(
    ("bad", "within_s"),
    [
        (BUSY, 20),  # tries at 0, 1, 3, 7 and 15 s
        (TryLater("template changed", 60, 43100, 5, is_general=True), 5 * 60),
        (TryLater("HTTP 429", None, 429, is_general=True), 10 * 60),
        (Held("HTTP 400", 60, 400), 6 * 60),
        (Held("HTTP 400", 60, 400, scope="T"), 6 * 60),
    ],
)
def test_what_one_message_alone_is_told_for_ever_ends_it_and_the_customers_later_ones_go(
    bad: Outcome, within_s: float
) -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.05)
        return bad if message.message_id == "bad" else Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(notification("bad", "a"), notification("later", "a"))
        for number in range(1000):
            world.take(notification(f"n{number}", f"c{number}"), offset=100 + number)
            await asyncio.sleep(1)
        await world.done()

    run_virtually(main())
    told = ends(world)
    assert isinstance(bad, TryLater | Held)
    assert told.pop("bad") == bad.error_code
    (given_up,) = [one for one in world.deliveries() if one.notification_id == "bad"]
    went_out = [name for _, name, _ in world.channel.attempts if name == "bad"]
    assert given_up.attempts == len(went_out) > 1
    assert set(told.values()) == {"sent"}
    assert world.finished[0, 0] <= within_s
    assert world.finished[0, 1] <= within_s + 1


@pytest.mark.parametrize("held", [BUSY, Held("HTTP 400", 60, 400)])
def test_what_everybody_is_told_for_hours_is_a_hold_and_loses_nothing(held: Outcome) -> None:
    end = 36_000

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.05)
        return held if asyncio.get_running_loop().time() < end else Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(20)])
        for _ in range(4):
            await asyncio.sleep(8000)
            (view,) = world.agent.holds()
            assert isinstance(held, TryLater | Held)
            assert view.reason == str(held.error_code)
            assert view.since[:16] == "2019-01-30T15:52"
        await world.done()

    run_virtually(main())
    assert set(ends(world).values()) == {"sent"}
    assert max(world.finished.values()) < end + 120


def test_one_message_alone_on_a_quiet_channel_is_on_hold_until_somebody_gets_through() -> None:
    async def answer(message: Message, is_repeat: bool) -> Outcome:
        return BUSY if message.message_id == "bad" else Sent("1")

    world = World(FakeChannel(answer))

    async def main() -> None:
        world.take(notification("bad", "a"))
        await asyncio.sleep(20_000)
        assert [view.reason for view in world.agent.holds()] == ["-1"]
        assert world.finished == {}
        world.take(notification("n1", "b"), offset=1)
        await asyncio.sleep(300)
        assert ends(world) == {"n1": "sent", "bad": -1}

    run_virtually(main())


def test_a_third_of_all_attempts_told_busy_loses_nothing() -> None:
    dice = random.Random(1)

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.05)
        return BUSY if dice.random() < 0.3 else Sent("1")

    world = World(FakeChannel(answer), most_at_once=64)

    async def main() -> None:
        world.take(*[notification(f"n{i}", f"a{i % 1000}") for i in range(4000)])
        await world.done()

    run_virtually(main())
    assert set(ends(world).values()) == {"sent"}


def limited(*recipients: str, until: float = float("inf")) -> FakeChannel:
    """Return a channel on which these recipients take no more until then."""

    async def answer(message: Message, is_repeat: bool) -> Outcome:
        await asyncio.sleep(0.05)
        is_limited = asyncio.get_running_loop().time() < until
        return LIMITED if is_limited and message.recipient in recipients else Sent("1")

    return FakeChannel(answer)


def test_a_recipients_limit_is_for_all_that_waits_and_takes_a_share_of_the_window() -> None:
    world = World(limited("o-busy"), most_at_once=64)

    async def main() -> None:
        world.take(*[notification(f"b{i}", "busy") for i in range(5000)])
        # Another account of the same person, and a direct message: the same limit.
        world.accounts["twin"] = Account("twin", "乙", openid="o-busy")
        world.take(*[notification(f"t{i}", "twin") for i in range(100)], offset=6000)
        await asyncio.sleep(1)
        assert world.agent.pending(0) == MOST_OF_ONE < world.agent.max_pending
        world.take(*[notification(f"n{i}", f"a{i}") for i in range(500)], offset=7000)
        await asyncio.sleep(10)
        assert sum(offset >= 7000 for _, offset in world.finished) == 500
        assert world.agent.pending(0) == MOST_OF_ONE
        await world.done()
        # What comes later waits for the rest that began then, and is told the same together.
        await asyncio.sleep(1)
        tried = len(world.channel.attempts)
        world.take(*[notification(f"l{i}", "busy") for i in range(100)], offset=8000)
        began = asyncio.get_running_loop().time()
        await world.done()
        assert asyncio.get_running_loop().time() - began == pytest.approx(3600, abs=5)
        assert len(world.channel.attempts) == tried + 1

    run_virtually(main())
    told = ends(world)
    assert {code for name, code in told.items() if name[0] in "btl"} == {43117}
    # The first hour's rest, one try for all, and all are given up.
    first = [moment for (_, offset), moment in world.finished.items() if offset < 6100]
    assert 3600 <= min(first) <= max(first) < 3610
    assert sum(name[0] in "bt" for _, name, _ in world.channel.attempts) <= 4


def test_a_recipient_who_takes_again_after_the_rest_gets_everything_in_order() -> None:
    world = World(limited("o-busy", until=3000))

    async def main() -> None:
        world.take(*[notification(f"b{i}", "busy") for i in range(50)])
        await world.done()

    run_virtually(main())
    assert set(ends(world).values()) == {"sent"}
    assert list(ends(world)) == [f"b{i}" for i in range(50)]
    assert min(world.finished.values()) >= 3600


def test_a_limit_that_was_met_before_a_restart_is_a_second_strike_after_it() -> None:
    ledger = MemoryLedger()

    async def main() -> None:
        for _ in range(2):
            world = World(limited("o-busy"), ledger)
            world.take(*[notification(f"b{i}", "busy") for i in range(50)])
            await asyncio.sleep(1)
            await world.agent.on_revoked([0])
        world = World(limited("o-busy"), ledger)
        world.take(*[notification(f"b{i}", "busy") for i in range(50)])
        await world.done()
        assert set(ends(world).values()) == {43117}
        assert 3600 <= max(world.finished.values()) < 3610

    run_virtually(main())


def test_a_limited_recipient_with_more_than_the_window_never_stops_the_others() -> None:
    world = World(limited("o-busy"))

    async def main() -> None:
        world.take(notification("first", "busy"))
        await asyncio.sleep(1)
        world.take(*[notification(f"b{i}", "busy") for i in range(MOST_PENDING + 1)], offset=1)
        await asyncio.sleep(60)
        assert len(world.finished) >= MOST_PENDING
        assert world.agent.pending(0) < world.agent.max_pending

    run_virtually(main())


def test_a_recipient_served_slowly_takes_a_share_of_the_window_too() -> None:
    world = World(FakeChannel(pauses={"o-slow": 1.0}))

    async def main() -> None:
        world.take(*[notification(f"s{i}", "slow") for i in range(6000)])
        assert world.agent.pending(0) == MOST_OF_ONE
        world.take(*[notification(f"s{i}", "slow") for i in range(20_000)], offset=6000)
        # What is begun in all is bounded all the same.
        assert world.agent.pending(0) >= world.agent.max_pending
        await world.agent.on_revoked([0])
        assert world.agent.pending(0) == 0

    run_virtually(main())


AGAIN = [
    ("trace", b"7"),
    ("dialwatch.attempts", b"1"),
    ("dialwatch.topic", b"notifications"),
    ("dialwatch.partition", b"0"),
    ("dialwatch.offset", b"17"),
]


def sent_again(ledger: MemoryLedger, *outcomes: Outcome) -> World:
    """Send n1 once more, as an operator's redrive does: at another offset, with the header."""
    world = World(answering(*outcomes), ledger)

    async def main() -> None:
        world.take(notification("n1", "a"), offset=9, headers=AGAIN)
        await world.done()

    run_virtually(main())
    return world


def test_a_command_that_was_given_up_is_tried_again_when_an_operator_sends_it_again() -> None:
    ledger = MemoryLedger()
    one_command(answering(Refused("no", 40003)), ledger)
    world = sent_again(ledger, TryLater("busy", 1.0), Sent("7"))
    assert world.statuses() == {"n1": ["sent"]}
    # That one was sent: whoever sends it once more sends nothing.
    again = World(answering(Sent("8")), ledger)

    async def main() -> None:
        again.take(notification("n1", "a"), offset=12, headers=AGAIN)
        await again.done()

    run_virtually(main())
    assert (again.outputs, again.channel.attempts) == ([], [])


def test_what_was_sent_or_is_repeated_without_an_operator_is_not_tried_again() -> None:
    sent = MemoryLedger()
    one_command(answering(Sent("7")), sent)
    assert sent_again(sent, Sent("8")).channel.attempts == []
    failed = MemoryLedger()
    one_command(answering(Refused("no", 40003)), failed)
    world = World(answering(Sent("8")), failed)

    async def main() -> None:
        world.take(notification("n1", "a"), offset=9)
        await world.done()

    run_virtually(main())
    assert (world.outputs, world.channel.attempts) == ([], [])


def test_a_command_given_up_again_is_a_letter_with_its_own_headers_and_a_count() -> None:
    ledger = MemoryLedger()
    one_command(answering(Refused("no", 40003)), ledger)
    world = sent_again(ledger, Refused("still no", 40003))
    (letter,) = [output for output in world.outputs if output.topic == "dead-letters"]
    assert letter.headers[0] == ("trace", b"7")
    headers = dict(letter.headers)
    assert headers["dialwatch.attempts"] == b"2"
    assert headers["dialwatch.topic"] == b"notifications"
    assert headers["dialwatch.offset"] == b"17"

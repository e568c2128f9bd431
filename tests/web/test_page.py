"""What the page is made of: rates, sparklines, masks, and words for how a worker is."""

from types import SimpleNamespace
from typing import Any

import pytest

from agents.holds import HoldView
from app.settings import load_settings
from app.web.history import KEPT, History, Sample, sparkline
from app.web.numbers import duration, matrix, ranges
from app.web.recent import masked
from app.web.view import STUCK_SECONDS, WorkerView
from streams.engine.phases import Phase


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    history = History()
    assert history.per_second("calls") is None
    for second in range(0, 120, 2):
        # 10 a second for a minute, then 100 a second
        folded = 10.0 * second if second <= 60 else 600 + 100.0 * (second - 60)
        history.add(Sample(second, {"calls": folded}, {"calls": second}))
    assert history.per_second("calls") == pytest.approx(100)
    assert history.per_second("never seen") == 0
    assert history.lags("calls")[-1] == 118


def test_old_samples_are_forgotten() -> None:
    history = History()
    for second in range(2 * KEPT):
        history.add(Sample(second, {}, {"calls": second}))
    assert history.lags("calls") == list(range(KEPT, 2 * KEPT))


def test_a_sparkline_ends_at_the_right_and_is_empty_when_nothing_moved() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0, 0]) == ""
    # the newest at x=120; none at the bottom (y=19), most at the top (y=1)
    assert sparkline([0, 5, 10]).split()[-1] == "120.0,1.0"
    assert sparkline([0, 5, 10]).split()[0].endswith(",19.0")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("account-01", "ac…01"), ("acme", "…"), ("", "–"), ("张三李四王五", "张三…王五")],
)
def test_an_account_is_told_from_its_neighbours_and_not_named(name: str, shown: str) -> None:
    assert masked(name) == shown


def worker(**how: Any) -> Any:
    """What the view asks of a worker, as it would answer."""
    engine = SimpleNamespace(
        is_ready=how.get("phase", Phase.RUNNING) is Phase.RUNNING,
        phase=how.get("phase", Phase.RUNNING),
        restored=0.4,
        assigned=how.get("assigned", set()),
        lags=dict,
        out_of_group=how.get("out_of_group"),
        wanted=lambda: how.get("wanted", {("calls", 0)}),
    )
    return SimpleNamespace(
        engine=engine,
        senders=how.get("senders", ()),
        seconds_since_poll=lambda: how.get("silent_s", 0.1),
    )


def test_who_is_out_of_its_group_is_not_well_and_says_why() -> None:
    view = WorkerView(load_settings())
    view.worker = worker()
    assert view.stuck() is None
    view.worker = worker(out_of_group="the group gives this worker nothing")
    assert view.stuck() == "the group gives this worker nothing"
    view.worker = worker(silent_s=1000.0)
    assert view.stuck() == "nothing was polled for 1000 s: restart the worker"
    # A rebalance while brokers are away.
    view.worker = worker(silent_s=1000.0, wanted=set())
    assert view.stuck() is None


def test_ready_says_what_is_being_waited_for_in_each_part_of_a_worker_s_life() -> None:
    view = WorkerView(load_settings(kafka_bootstrap_servers="kafka:9092", group="g"))
    assert view.not_ready() == "waiting for Kafka at kafka:9092"
    view.worker = worker(phase=Phase.IDLE)
    assert view.not_ready() == "waiting for group g to assign partitions"
    view.worker = worker(phase=Phase.TAKING_OVER, assigned={("calls", 0)})
    assert view.not_ready() == "restoring the state, 40% done"
    view.worker = worker()
    assert view.not_ready() is None
    view.is_stopping = True
    assert view.not_ready() == "stopping"
    assert view.stuck() is None


def test_a_worker_that_polls_nothing_is_not_well() -> None:
    view = WorkerView(load_settings())
    assert view.stuck() is None
    view.worker = worker(silent_s=STUCK_SECONDS + 1)
    assert "restart the worker" in (view.stuck() or "")


def test_providers_are_open_held_or_not_used_and_equal_holds_are_shown_once() -> None:
    view = WorkerView(
        load_settings(wechat_app_id="wx", wechat_app_secret="s", wechat_template_id="t")
    )
    away = [
        HoldView("wechat", "away", None, f"2026-02-14T10:00:0{second}+08:00", "no answer", "")
        for second in (3, 1)
    ]
    view.worker = worker(
        senders=[SimpleNamespace(store_is_away=True, holds=lambda one=one: [one]) for one in away]
    )
    assert [hold.until[11:19] for hold in view.holds()] == ["10:00:01"]
    said = {provider.name: (provider.is_well, provider.state) for provider in view.providers()}
    assert said["Redis"] == (False, "doesn't answer: messages wait")
    assert said["WeChat"] == (False, "on hold: away")
    assert said["SMS"] == (None, "skipped: no gateway is set")


def test_settings_that_somebody_chose_are_told_from_the_defaults() -> None:
    shown = {
        name: chosen
        for name, _, chosen in WorkerView(load_settings(run_length=50)).settings_shown()
    }
    assert [name for name, chosen in shown.items() if chosen] == ["DIALWATCH_RUN_LENGTH"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5.9, "5 s"), (65, "1 min 5 s"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_a_time_span_has_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_partitions_are_shown_as_ranges() -> None:
    assert ranges([0, 1, 2, 3, 5, 7, 8]) == "0–3, 5, 7–8"
    assert ranges([]) == ""


def test_scenarios_come_in_the_contract_s_order_and_others_after_them() -> None:
    counts = [(("direct", "wechat"), 2.0), (("low_balance", "sms"), 1.0),
              (("batch_completed", "inbox"), 3.0), (("announcement", "inbox"), 0.0)]  # fmt: skip
    assert matrix(counts) == [
        ("batch_completed", [3, 0, 0]),
        ("low_balance", [0, 0, 1]),
        ("direct", [0, 2, 0]),
    ]

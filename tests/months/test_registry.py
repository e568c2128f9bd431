"""The long suite's parts are there: what it shortens, and what its rounds are made of."""

import importlib
from dataclasses import fields

from app.main import EngineConfig
from tests.months.registry import ROOT, find_rounds
from tests.months.rounds.items import TESTS
from tests.months.short import CONSTANTS, ENGINE


def test_every_constant_that_is_shortened_is_there() -> None:
    for place in CONSTANTS:
        module, _, name = place.partition(":")
        assert hasattr(importlib.import_module(module), name), place
    assert {field.name for field in fields(EngineConfig)} >= ENGINE.keys()


def test_rounds_are_found_by_name() -> None:
    rounds = find_rounds()
    assert {"quiet-week", "months", "upgrade-from-0-1-0", *TESTS} <= rounds.keys()
    assert rounds["spare-worker"].needs.partitions == 1


def test_every_test_of_a_round_is_there() -> None:
    for tests in TESTS.values():
        for test in tests:
            assert (ROOT / test.partition("::")[0]).exists(), test

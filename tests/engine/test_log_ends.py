"""A log whose end lies before what was read of it: not visible yet, or lost?"""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka.errors import ReplicaNotAvailableError

from streams.engine.log_ends import LogEnds
from streams.engine.types import TP
from tests.engine.alone import ACCOUNTS, CALLS
from tests.virtual_time import run_virtually


class Behind:
    """A reader of a log whose end grows to 10 after so many seconds; 0 at first."""

    def __init__(self, after_s: float, *, has_replicas: bool = True) -> None:
        self.after_s = after_s
        self.has_replicas = has_replicas

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        is_there = asyncio.get_running_loop().time() >= self.after_s
        return dict.fromkeys(tps, 10 if is_there else 7)

    async def lacks_replicas(self, tps: Iterable[TP]) -> bool:
        return not self.has_replicas


@pytest.mark.parametrize(
    ("reader", "end", "takes_s"),
    [
        (Behind(5), 10, 5),
        # All brokers were killed and came back: nobody shows the last records for a while.
        (Behind(50), 10, 50),
        # A broker is away for hours, and its replicas with it.
        (Behind(7000, has_replicas=False), 10, 7000),
        # The log's end is lost.
        (Behind(1e9), 7, 60),
    ],
)
def test_a_log_that_ends_before_what_was_read_is_waited_for(
    reader: Any, end: int, takes_s: float
) -> None:
    log_ends, said = LogEnds(60.0), list[str]()

    async def main() -> None:
        while True:
            try:
                found = await log_ends.reached(reader, {CALLS: 10, ACCOUNTS: 7})
                break
            except ReplicaNotAvailableError as error:
                said.append(str(error))
                await asyncio.sleep(1)
        assert found[CALLS] == end
        assert asyncio.get_running_loop().time() == pytest.approx(takes_s, rel=0.01, abs=2)

    run_virtually(main())
    assert all("calls-0 ends at 7, before 10" in line for line in said)
    assert len(said) == pytest.approx(takes_s // 16, rel=0.02, abs=1)


async def test_a_log_that_is_behind_later_has_its_own_patience() -> None:
    log_ends, reader = LogEnds(0.5), Behind(1e12)
    asking = asyncio.create_task(log_ends.reached(reader, {CALLS: 10}))  # type: ignore[arg-type]
    await asyncio.sleep(0.4)
    asking.cancel()
    began = asyncio.get_running_loop().time()
    await log_ends.reached(reader, {CALLS: 10, ACCOUNTS: 10})  # type: ignore[arg-type]
    assert asyncio.get_running_loop().time() - began > 0.5

"""`make test-faults`: every fault, seed after seed, one line a round. What failed can be rerun:

make test-faults SEED=7 ROUNDS=1
.venv/bin/python -m tests.faults.long --seed 7 --rounds 1 --only kill-broker
"""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from app.local.errors import LocalStackError
from app.local.stack import Stack
from tests.faults.cluster import Cluster
from tests.faults.suite import FAULTS, Round

ROUND_SECONDS = 600.0
START_ATTEMPTS = 3


class Bench:
    """The servers that rounds run on: kept from round to round until one fails."""

    def __init__(self) -> None:
        self._servers: Stack | Cluster | None = None

    def servers(self, *, is_cluster: bool) -> Stack | Cluster:
        """Return running servers of a kind, new ones where the last round left others."""
        wanted = Cluster if is_cluster else Stack
        if not isinstance(self._servers, wanted):
            self.clear()
            for attempt in range(START_ATTEMPTS):
                made = wanted()
                try:
                    self._servers = made.start()
                    break
                except LocalStackError:  # somebody else took a port meanwhile
                    made.stop()
                    if attempt + 1 == START_ATTEMPTS:
                        raise
        assert self._servers is not None
        return self._servers

    def clear(self) -> None:
        """Stop them, whatever state they are in."""
        servers, self._servers = self._servers, None
        if servers is not None:
            with suppress(OSError):
                servers.stop()


def run_round(bench: Bench, seed: int, name: str) -> str:
    """Run one round; return its line. Raises whatever it fails with; keeps the logs then."""
    kind, began = FAULTS[name], time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="dialwatch-round-"))
    try:
        servers = bench.servers(is_cluster=kind.needs_cluster)
        round_ = Round(
            servers,
            directory,
            seed,
            partitions=kind.partitions,
            replication=3 if kind.needs_cluster else 1,
        )
        asyncio.run(asyncio.wait_for(round_.run(kind.strike), ROUND_SECONDS))
    except BaseException:
        bench.clear()
        (directory / "traceback").write_text(traceback.format_exc())
        print(f"logs of seed {seed} {name}: {directory}", flush=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    told = "".join(f", {note}" for note in round_.notes)
    calls = round_.history.calls
    return f"ok  {time.monotonic() - began:4.0f} s  {calls} calls{told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how many seeds, each with all faults"
    )
    parser.add_argument("--only", choices=sorted(FAULTS), action="append", help="only this fault")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    failed = []
    bench = Bench()
    try:
        for seed in range(given.seed, given.seed + given.rounds):
            for name in given.only or FAULTS:
                try:
                    verdict = run_round(bench, seed, name)
                except Exception as error:
                    failed.append(f"--seed {seed} --rounds 1 --only {name}")
                    verdict = f"FAILED  {' '.join((str(error) or repr(error)).split())[:300]}"
                print(f"seed {seed}  {name:22} {verdict}", flush=True)
            bench.clear()
    finally:
        bench.clear()
    for again in failed:
        print(f"rerun: .venv/bin/python -m tests.faults.long {again}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

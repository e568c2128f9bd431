"""`make test-months`: months in minutes, seed after seed, one line a round. What failed is rerun by

make test-months SEED=7 ROUNDS=1
.venv/bin/python -m tests.months.suite --seed 7 --only quiet-week
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

from app.local.kafka import Kafka
from app.local.stack import Stack
from tests.months.month import KAFKA, Month
from tests.months.registry import Kind, find_rounds

START_SECONDS = 300.0
"""On a machine that does other things too."""


def run_round(kind: Kind, seed: int) -> str:
    """Run one round on servers of its own; return its line. Keeps the logs where it fails."""
    began, directory = time.monotonic(), Path(tempfile.mkdtemp(prefix="dialwatch-month-"))
    stack = Stack(directory / "stack")
    stack.kafka = Kafka(directory / "stack" / "kafka", stack.kafka.port, settings=KAFKA)
    stack.kafka.start_seconds = START_SECONDS
    month = Month(stack, directory, seed, partitions=kind.needs.partitions)
    try:
        with stack:
            acting = month.act(kind.act, has_topics=kind.needs.has_topics)
            asyncio.run(asyncio.wait_for(acting, kind.needs.within_s))
    except BaseException:
        (directory / "traceback").write_text(traceback.format_exc())
        print(f"logs of seed {seed} {kind.name}: {directory}", flush=True)
        raise
    with suppress(OSError):
        shutil.rmtree(directory)
    told = "".join(f", {note}" for note in month.notes)
    calls = f"  {month.history.calls} calls" if month.history.calls else ""
    return f"ok  {time.monotonic() - began:4.0f} s{calls}{told}"


def main() -> int:
    rounds = find_rounds()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first turn")
    parser.add_argument("--rounds", type=int, default=1, help="how many seeds, each with all")
    parser.add_argument("--only", choices=sorted(rounds), action="append", help="only this round")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    failed = []
    for seed in range(given.seed, given.seed + given.rounds):
        for name in given.only or rounds:
            try:
                verdict = run_round(rounds[name], seed)
            except Exception as error:
                failed.append(f"--seed {seed} --only {name}")
                verdict = f"FAILED  {' '.join((str(error) or repr(error)).split())[:300]}"
            print(f"seed {seed}  {name:28} {verdict}", flush=True)
    for again in failed:
        print(f"rerun: .venv/bin/python -m tests.months.suite {again}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

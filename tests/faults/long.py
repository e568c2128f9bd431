"""`make test-faults`: every fault, seed after seed. Prints what failed so that it can be rerun:

make test-faults SEED=7 ROUNDS=1
.venv/bin/python -m tests.faults.long --seed 7 --rounds 1 --only kill-broker
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

from app.local.stack import Stack
from tests.faults.suite import FAULTS, Round


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how many seeds, each with all faults"
    )
    parser.add_argument("--only", choices=sorted(FAULTS), action="append", help="only this fault")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    failed = []
    for seed in range(given.seed, given.seed + given.rounds):
        with tempfile.TemporaryDirectory() as directory, Stack() as stack:
            for name in given.only or FAULTS:
                began = time.monotonic()
                try:
                    asyncio.run(Round(stack, Path(directory) / name, seed).run(FAULTS[name]))
                    verdict = "ok"
                except Exception:
                    verdict = "FAILED"
                    failed.append(f"--seed {seed} --rounds 1 --only {name}")
                    traceback.print_exc()
                print(
                    f"seed {seed}  {name:24} {verdict}  {time.monotonic() - began:.0f} s",
                    flush=True,
                )
                stack.kafka.resume()
                stack.start()
    for again in failed:
        print(f"rerun: .venv/bin/python -m tests.faults.long {again}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

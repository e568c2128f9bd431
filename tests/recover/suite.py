"""`make test-recover`: each act of `docs/recover.md`, on servers of its own, one line an act.

make test-recover ACT=restored-backup SEED=7
"""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from app.local.stack import Stack
from tests.recover.acts import ACTS
from tests.recover.world import World

CALLS = 300
ACT_SECONDS = 900.0


def run_act(name: str, seed: int, directory: Path, calls: int = CALLS) -> World:
    """Run one act; raises whatever it fails with."""
    with Stack(directory / "stack") as stack:
        world = World(stack, directory, seed, calls=calls)
        acting = world.act(ACTS[name], has_topics=True)
        asyncio.run(asyncio.wait_for(acting, ACT_SECONDS))
    return world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(ACTS), action="append", help="only this act")
    given = parser.parse_args()
    for logger in ("aiokafka", "asyncio"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    failed = []
    for name in given.only or ACTS:
        began, directory = time.monotonic(), Path(tempfile.mkdtemp(prefix="dialwatch-recover-"))
        try:
            world = run_act(name, given.seed, directory)
            shutil.rmtree(directory, ignore_errors=True)
            notes = "".join(f", {note}" for note in world.notes)
            verdict = f"ok  {time.monotonic() - began:4.0f} s{notes}"
        except Exception as error:
            failed.append(name)
            (directory / "traceback").write_text(traceback.format_exc())
            words = " ".join((str(error) or repr(error)).split())[:500]
            verdict = f"FAILED  {words} (logs: {directory})"
        print(f"seed {given.seed}  {name:30} {verdict}", flush=True)
    for name in failed:
        print(f"rerun: .venv/bin/python -m tests.recover.suite --seed {given.seed} --only {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Folding in several processes, each with a share of the partitions; slices are merged in order.

A process sends its slices through a pipe (no socket), and waits while the others are behind. The
result doesn't depend on the number of processes, because slices don't.
"""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from heapq import merge
from multiprocessing import resource_tracker
from typing import Any

from app.analysis.expansion import added_partitions
from app.analysis.loop_thread import INTERRUPTED_WITHIN_SECONDS
from app.analysis.partition_logs import Logs
from app.analysis.refold import Question, Slice, Watch
from app.errors import CommandError
from app.garbage_collector import tune_memory

Opening = Callable[[], Logs]
"""Opens the logs in the process that calls it. Is pickled."""

# The most that is sent at once, and that waits here of a process that is ahead.
_MOST_SLICES, _MOST_RECORDS = 500, 100_000
_MOST_WAITING = 16


def slices_of(question: Question, reading: Logs, opening: Opening, jobs: int) -> Iterator[Slice]:
    """Yield the slices of all partitions in order, folded by `jobs` processes; by one where an
    account's records lie in several partitions, because `topics expand` added some. `reading`: the
    open logs. Raises CommandError."""
    partitions = range(question.topics.partitions)
    added = added_partitions(reading, question.topics)
    if jobs == 1 or added:
        yield from Watch(question, reading, partitions, added=added).slices()
        return
    context = multiprocessing.get_context("spawn")
    streams = []
    processes: list[Any] = []
    stop = threading.Event()
    try:
        for number in range(min(jobs, len(partitions))):
            ours, theirs = context.Pipe(duplex=False)
            share = partitions[number::jobs]
            process = context.Process(
                target=_work, args=(theirs, question, opening, share, number == 0), daemon=True
            )
            _start(process, processes)
            theirs.close()
            streams.append(_received(ours, stop))
        yield from merge(*streams, key=lambda one: (one.key, one.place))
    finally:
        stop.set()
        for process in processes:
            process.terminate()
            process.join()


def _start(process: Any, started: list[Any]) -> None:
    """Start a process that Ctrl-C doesn't reach: it would print a traceback, and the parent, which
    Ctrl-C reaches too, ends it. Adds it to those that were started before the parent can be
    interrupted. Raises CommandError."""
    resource_tracker.ensure_running()  # it ends the blocking of SIGINT when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
        started.append(process)
    except OSError as error:
        raise CommandError(
            f"no more processes can be started ({error.strerror}): give fewer --jobs"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    pipe: Any, question: Question, opening: Opening, share: Sequence[int], is_first: bool
) -> None:
    """Fold a share of the partitions. Runs in a process of its own."""
    tune_memory()
    with suppress(BrokenPipeError):  # the parent has ended
        try:
            _fold(pipe, question, opening, share, is_first=is_first)
        except CommandError as error:
            pipe.send(error)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            pipe.send(
                CommandError(f"{reason} (unexpected; --verbose with --jobs 1 shows a traceback)")
            )


def _fold(
    pipe: Any, question: Question, opening: Opening, share: Sequence[int], *, is_first: bool
) -> None:
    reading = opening()
    try:
        waiting: list[Slice] = []
        records = 0
        for one in Watch(question, reading, share, is_first=is_first).slices():
            waiting.append(one)
            records += one.records
            if len(waiting) >= _MOST_SLICES or records >= _MOST_RECORDS:
                pipe.send(waiting)
                waiting, records = [], 0
        pipe.send(waiting)
        pipe.send(None)
    finally:
        reading.close()


def _received(pipe: Any, stop: threading.Event) -> Iterator[Slice]:
    """Yield the slices that a process sends. A thread empties the pipe, so that the process needn't
    wait."""
    waiting: queue.Queue[Any] = queue.Queue(_MOST_WAITING)

    def receive() -> None:
        while not stop.is_set():
            try:
                got = pipe.recv()
            except (EOFError, OSError):
                got = CommandError("a process of the replay ended: run it again with --jobs 1")
            while not stop.is_set():  # whoever takes may have been interrupted
                with suppress(queue.Full):
                    waiting.put(got, timeout=INTERRUPTED_WITHIN_SECONDS)
                    break
            if got is None or isinstance(got, CommandError):
                return

    threading.Thread(target=receive, daemon=True).start()
    while True:
        try:
            got = waiting.get(timeout=INTERRUPTED_WITHIN_SECONDS)
        except queue.Empty:
            continue
        if got is None:
            return
        if isinstance(got, CommandError):
            raise got
        yield from got

"""`dialwatch local`: a stack that stays up for other commands until it is told to stop."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from app.local.jars import Progress
from app.local.stack import Stack

CHECK_SECONDS = 1.0

# Something that runs beside the stack while the context is open. The context's value is the
# settings with which dialwatch finds it.
Companion = Callable[[Stack], AbstractContextManager[Mapping[str, str]]]


def run_local(
    directory: Path | None = None,
    *,
    kafka_port: int = 9092,
    valkey_port: int = 6379,
    heap_mb: int = 512,
    companions: Sequence[Companion] = (),
) -> None:
    """Run the stack and its companions until SIGINT or SIGTERM, then return.

    Once all of them serve, the settings that lead to them are printed on stdout, one NAME=value
    a line; everything else goes to stderr. Raises LocalStackError when something cannot start
    or ends by itself. Call it in the main thread.
    """
    console = Console(stderr=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as running:
            with progress_shown(console) as progress:
                stack = running.enter_context(
                    Stack(
                        directory,
                        kafka_port=kafka_port,
                        valkey_port=valkey_port,
                        heap_mb=heap_mb,
                        progress=progress,
                    )
                )
            environment = stack.environment
            for companion in companions:
                environment |= running.enter_context(companion(stack))
            for name, value in environment.items():
                print(f"{name}={value}", flush=True)
            # Not with rich's console: interrupted at a wrong moment, it prints a line twice.
            print(
                f"Running, with its data in {stack.directory}. Ctrl-C ends it.",
                file=sys.stderr,
                flush=True,
            )
            while True:
                time.sleep(CHECK_SECONDS)
                stack.check()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_shown(console: Console) -> Iterator[Progress]:
    """Show progress bars for the download, if any, and the start; nothing without a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bars.add_task("Starting Kafka and Valkey", total=None, size="")
        downloads: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not downloads:
                downloads.append(bars.add_task("Downloading Apache Kafka", total=total, size=""))
            size = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
            bars.update(downloads[0], completed=done, size=size)

        yield show

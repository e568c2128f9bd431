"""Apache Kafka's jars: which ones there are, where they are kept, and downloading them.

`jars.lock` names every jar with its size and SHA-256. Only jars that match are run: each is checked
after the download and again at every start, and one that is incomplete or altered is downloaded
again. Which jars belong together is decided by `lock_jars`, not here.
"""

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.local.errors import LocalStackError, check_disk, needs_extra

LOCK_FILE = Path(__file__).with_name("jars.lock")
ATTEMPTS = 3
PAUSE_SECONDS = 2.0
"""Before the second attempt; twice as long before the third. Who is busy is so for some seconds."""
DOWNLOADS_AT_ONCE = 4
# Free space for the jars, a second copy in the staging directory, and some reserve.
NEEDED_BYTES = 200_000_000

Progress = Callable[[int, int], None]  # bytes that are there, bytes in all; called from any thread


@dataclass(frozen=True)
class Jar:
    """One line of the lock file."""

    sha256: str
    size: int
    group: str
    artifact: str
    version: str

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def is_at(self, path: Path) -> bool:
        """Is the file there, complete and unaltered?"""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except OSError:
            return False  # the reason will show when the file is written


def read_lock(path: Path = LOCK_FILE) -> list[Jar]:
    """Return the jars of the lock file, in class path order."""
    jars = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            sha256, size, coordinate = line.split()
            jars.append(Jar(sha256, int(size), *coordinate.split(":")))
    return jars


def cache_dir() -> Path:
    """Return the directory of downloads, shared by all of this user's checkouts."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dialwatch"


def fetch(
    directory: Path | None = None, progress: Progress | None = None, lock: Path = LOCK_FILE
) -> list[Path]:
    """Return all jars of the lock file, checked. Downloads those that are missing or damaged.

    Several processes may do this at once: a jar gets its name only when it is complete. `progress`
    is called only when something has to be downloaded.
    Raises LocalStackError with a line that says what to do.
    """
    jars = read_lock(lock)
    directory = directory or cache_dir() / "jars"
    missing = [jar for jar in jars if not jar.is_at(directory / jar.filename)]
    if missing:
        check_disk(directory, NEEDED_BYTES, "set XDG_CACHE_HOME to a directory on another disk")
        with _staging(directory) as staging:
            _download(missing, staging, directory, progress or (lambda done, total: None))
    return [directory / jar.filename for jar in jars]


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A directory for incomplete files, in the same file system as `directory`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix="partial-") as staging:
            yield Path(staging)
    except OSError as error:
        raise LocalStackError(
            f"cannot write Kafka's jars to {directory}: {error.strerror or error}; "
            "make room or set XDG_CACHE_HOME to a directory that can be written to"
        ) from None


def _download(jars: list[Jar], staging: Path, directory: Path, progress: Progress) -> None:
    received = _Received(sum(jar.size for jar in jars), progress)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        tasks = [pool.submit(_download_one, jar, staging, directory, received) for jar in jars]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            # Also after Ctrl-C: begin no further download.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download_one(jar: Jar, staging: Path, directory: Path, received: "_Received") -> None:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * attempt)
        counted = 0

        def count(length: int) -> None:
            nonlocal counted
            counted += length
            received.add(length)

        try:
            path = _from_repository(jar, staging / f"{jar.artifact}-{attempt}", count)
        # OSError: the errors of `requests`. RuntimeError: jgo found no such file.
        except (OSError, RuntimeError) as error:
            reason = f"{type(error).__name__} from the Maven repository"
        else:
            if jar.is_at(path):
                path.replace(directory / jar.filename)
                return
            reason = "it is not the file that app/local/jars.lock names"
        received.add(-counted)
    raise LocalStackError(
        f"cannot download {jar.filename} ({reason}); "
        "check the network or the repositories in jgo's settings, then run this again"
    )


def _from_repository(jar: Jar, into: Path, count: Callable[[int], None]) -> Path:
    """Download one file with jgo, from Maven Central or the mirrors of the user's jgo settings."""
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415 (only the extra `local` brings it)
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise needs_extra(error) from None

    @contextmanager
    def on_bytes(filename: str, size: int) -> Iterator[Callable[[int], None]]:
        yield count

    context = MavenContext(
        resolver=PythonResolver(progress_callback=on_bytes),
        repo_cache=into,
        remote_repos=GlobalSettings.load().repositories or None,
    )
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    return Path(context.resolver.download(component.artifact()))


class _Received:
    """Bytes received by all downloads together."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def add(self, length: int) -> None:
        with self._lock:
            self._done += length
            self._progress(self._done, self._total)

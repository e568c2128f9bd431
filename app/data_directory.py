"""A worker's own directory: keeps its id over restarts, and a lock against a second worker."""

import fcntl
import re
import uuid
from pathlib import Path
from typing import IO

from app.errors import CommandError

_WORKER_ID = re.compile(r"[0-9a-f]{12}")


class DataDirectory:
    """A worker's directory, locked while the worker runs."""

    def __init__(self, path: Path) -> None:
        """Lock it. Raises CommandError where it can't be written or another worker has it."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / "worker.lock").open("w")
        except OSError as error:
            raise CommandError(
                f"can't write to {path} ({error.strerror}): set DIALWATCH_DATADIR to a directory "
                "of this worker's own, on a disk with room"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise CommandError(
                f"another worker runs on {path}: give each its own DIALWATCH_DATADIR"
            ) from error
        self._path = path

    def worker_id(self) -> str:
        """Return the worker's id; a new directory gets a new one.

        It is part of the transactional id, so that after a restart the worker's own open
        transaction is ended at once.
        """
        file = self._path / "worker-id"
        try:
            known = file.read_text(errors="replace").strip() if file.exists() else ""
            if not _WORKER_ID.fullmatch(known):  # a new file, or one cut short on a full disk
                known = uuid.uuid4().hex[:12]
                file.write_text(known + "\n")
        except OSError as error:
            raise CommandError(
                f"can't keep the worker's id in {file} ({error.strerror}): make room and let this "
                "user read and write there, or set DIALWATCH_DATADIR to another directory"
            ) from error
        return known

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

"""A worker's own directory: the same worker after a restart, and nobody else meanwhile."""

from pathlib import Path

import pytest

from app.data_directory import DataDirectory
from app.errors import CommandError


def test_a_worker_is_the_same_one_after_a_restart_and_each_directory_has_another(
    tmp_path: Path,
) -> None:
    ids = []
    for name in ("one", "one", "other"):
        directory = DataDirectory(tmp_path / name)
        ids.append(directory.worker_id())
        directory.close()
    assert ids[0] == ids[1] != ids[2]


def test_two_at_once_are_refused_and_the_next_one_is_welcome(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    with pytest.raises(CommandError, match=r"another worker runs on .*its own DIALWATCH_DATADIR"):
        DataDirectory(tmp_path)
    first.close()
    DataDirectory(tmp_path).close()


@pytest.mark.parametrize("content", [b"", b"0123", b"\xff\xfe\x00", b"no id at all\n"])
def test_an_id_that_was_cut_short_is_made_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "worker-id").write_bytes(content)
    directory = DataDirectory(tmp_path)
    made = directory.worker_id()
    assert len(made) == 12
    assert directory.worker_id() == made
    directory.close()


def test_an_id_that_can_t_be_read_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "worker-id").mkdir()
    directory = DataDirectory(tmp_path)
    with pytest.raises(CommandError, match=r"worker-id \(Is a directory\): .*DIALWATCH_DATADIR"):
        directory.worker_id()
    directory.close()

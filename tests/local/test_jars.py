"""Kafka's jars: fetched once, checked each time, and every trouble is one line."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local import jars
from app.local.errors import LocalStackError
from app.local.lock_jars import KAFKA
from tests.local.maven import Repository, serving

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    monkeypatch.setattr(jars, "PAUSE_SECONDS", 0.0)
    with serving(monkeypatch, tmp_path / "home") as made:
        yield made


@pytest.fixture
def lock(repository: Repository, tmp_path: Path) -> Path:
    """Names two jars, which the repository offers."""
    lines = [repository.jar("one", b"1" * 50_000), repository.jar("two", b"2" * 50_000)]
    file = tmp_path / "jars.lock"
    file.write_text("# a comment\n" + "\n".join(lines) + "\n")
    return file


def test_what_is_there_is_not_fetched_again(
    repository: Repository, lock: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    fetched = jars.fetch(tmp_path / "jars", lambda done, total: seen.append((done, total)), lock)
    assert [path.name for path in fetched] == ["one-1.0.jar", "two-1.0.jar"]
    assert fetched[0].read_bytes() == b"1" * 50_000
    assert seen[-1] == (100_000, 100_000)
    assert sorted(path.name for path in (tmp_path / "jars").iterdir()) == [
        "one-1.0.jar",
        "two-1.0.jar",
    ]
    repository.asked.clear()
    assert jars.fetch(tmp_path / "jars", lock=lock) == fetched
    assert repository.asked == []


@pytest.mark.parametrize("content", [b"1" * 20_000, b"x" + b"1" * 49_999], ids=["half", "altered"])
def test_a_jar_that_is_not_what_the_lock_says_is_fetched_anew(
    repository: Repository, lock: Path, tmp_path: Path, content: bytes
) -> None:
    whole = jars.fetch(tmp_path / "jars", lock=lock)
    whole[0].write_bytes(content)
    repository.asked.clear()
    jars.fetch(tmp_path / "jars", lock=lock)
    assert whole[0].read_bytes() == b"1" * 50_000
    assert repository.asked == ["one-1.0.jar"]


def test_a_download_that_breaks_off_is_begun_again(
    repository: Repository, lock: Path, tmp_path: Path
) -> None:
    repository.cut_short = 2
    seen: list[int] = []
    fetched = jars.fetch(tmp_path / "jars", lambda done, total: seen.append(done), lock)
    assert [path.stat().st_size for path in fetched] == [50_000, 50_000]
    assert seen[-1] == 100_000


def test_a_repository_that_is_busy_for_a_while_is_asked_again_later(
    repository: Repository, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "PAUSE_SECONDS", 0.5)
    repository.busy_s = 1.2
    assert len(jars.fetch(tmp_path / "jars", lock=lock)) == 2


def test_what_came_whole_is_kept_when_another_one_fails(
    repository: Repository, lock: Path, tmp_path: Path
) -> None:
    del repository.jars["two-1.0.jar"]
    with pytest.raises(LocalStackError, match=r"two-1\.0\.jar .*check the network"):
        jars.fetch(tmp_path / "jars", lock=lock)
    assert [path.name for path in (tmp_path / "jars").iterdir()] == ["one-1.0.jar"]
    repository.jar("two", b"2" * 50_000)
    repository.asked.clear()
    jars.fetch(tmp_path / "jars", lock=lock)
    assert repository.asked == ["two-1.0.jar"]


def test_a_repository_with_other_bytes_is_refused(
    repository: Repository, lock: Path, tmp_path: Path
) -> None:
    repository.jar("two", b"something else")
    with pytest.raises(LocalStackError, match=r"two-1\.0\.jar .*jars\.lock"):
        jars.fetch(tmp_path / "jars", lock=lock)
    assert not (tmp_path / "jars" / "two-1.0.jar").exists()


def test_two_that_fetch_at_once_don_t_disturb_each_other(
    repository: Repository, lock: Path, tmp_path: Path
) -> None:
    fetched: list[list[Path]] = []
    threads = [
        threading.Thread(target=lambda: fetched.append(jars.fetch(tmp_path / "jars", lock=lock)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 2
    for path in fetched[0]:
        assert path.stat().st_size == 50_000


def test_no_room_on_the_disk_is_said_before_anything_is_fetched(
    repository: Repository, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "NEEDED_BYTES", 10**18)
    with pytest.raises(LocalStackError, match=r"no room .*XDG_CACHE_HOME"):
        jars.fetch(tmp_path / "jars", lock=lock)
    assert repository.asked == []


def test_a_cache_that_can_t_be_written_is_one_line(
    repository: Repository, lock: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(LocalStackError, match=r"cannot write .*XDG_CACHE_HOME"):
        jars.fetch(tmp_path / "a-file" / "jars", lock=lock)


def test_the_lock_names_each_jar_once_and_one_kafka() -> None:
    locked = jars.read_lock()
    names = [jar.filename for jar in locked]
    assert len(set(names)) == len(names)
    assert {jar.version for jar in locked if jar.group == "org.apache.kafka"} == {KAFKA}
    assert all(len(jar.sha256) == 64 for jar in locked)


def test_docker_compose_runs_the_same_kafka() -> None:
    compose = (ROOT / "docker-compose.kafka.yml").read_text()
    assert f"apache/kafka:{KAFKA}" in compose
    assert 'KAFKA_AUTO_CREATE_TOPICS_ENABLE: "false"' in compose

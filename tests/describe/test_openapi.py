"""The web servers as machines read them: valid OpenAPI 3.1, and every route is in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

ROOT = Path(__file__).parent.parent.parent
WORKER = json.loads((ROOT / "app" / "web" / "openapi.json").read_text(encoding="utf-8"))
CONSOLE = json.loads((ROOT / "docs" / "openapi-console.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("said", [WORKER, CONSOLE], ids=["worker", "console"])
def test_it_is_openapi_3_1(said: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(said).validate()
    with pytest.raises(OpenAPIValidationError):
        OpenAPIV31SpecValidator({**said, "paths": {"/x": {"get": {"responses": 1}}}}).validate()


def test_every_route_of_the_worker_is_described() -> None:
    source = "".join(file.read_text() for file in (ROOT / "app" / "web").glob("*.py"))
    routes = set(re.findall(r'add_(?:get|post)\(\s*"([^"{]+)"', source))
    routes |= set(re.findall(r'^PATH = "([^"]+)"', source, re.MULTILINE))
    assert routes == set(WORKER["paths"])


def test_every_path_of_the_contract_is_described_for_the_console() -> None:
    contract = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    table = contract[contract.index("**`dialwatch console`**") : contract.index("## For analysts")]
    paths = set(re.findall(r"`(/[a-z-]+)(?:[/?][A-Za-z]*)?`", table))
    described = {re.sub(r"\{.*", "", path.removeprefix("/api")) for path in CONSOLE["paths"]}
    for path in paths - {"/api", "/discard"}:
        assert any(one.startswith(path) for one in described), path

"""The web servers as machines read them: valid OpenAPI 3.1, and every route is in it."""

import re
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from pydantic import SecretStr

from app.web.access import refusal
from tests.describe.answers import CONSOLE, ROOT, WORKER, check_described


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


@pytest.mark.parametrize("token", [SecretStr("secret"), None])
def test_the_access_rule_s_answers_are_described(token: SecretStr | None) -> None:
    answer = refusal(make_mocked_request("GET", "/recent"), token, "0.0.0.0")
    assert answer is not None
    assert answer.status == (403 if token is None else 401)
    check_described(WORKER, "GET", "/recent", answer.status, answer.content_type)


def test_what_no_operation_answers_is_not_described() -> None:
    """The other way round: each status that stands there has a test that gets it."""
    callback = WORKER["paths"]["/receive/wechat/callback"]
    assert list(callback["get"]["responses"]) == ["200", "403"]
    assert list(callback["post"]["responses"]) == ["200", "403", "408", "503"]
    order = CONSOLE["paths"]["/api/dead-letters/redrive"]["post"]
    assert list(order["responses"]) == [
        "200", "400", "401", "403", "408", "409", "413", "415", "503",
    ]  # fmt: skip

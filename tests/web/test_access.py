"""Who may see customers' data: the contract's rule of DIALWATCH_WEB_TOKEN, row by row."""

import base64

import pytest
from aiohttp import HttpVersion10
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr

from app.web.access import has_bearer, refusal

TOKEN = "ops-token"


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:6066", None),
        ("127.0.0.1", "localhost:6066", None),
        ("127.0.0.1", "localhost", None),
        ("::1", "[::1]:6066", None),
        ("localhost", "127.0.0.9", None),
        # a page of another site that a browser was led to by its name's address
        ("127.0.0.1", "evil.example:6066", 403),
        ("127.0.0.1", "localhost.evil.example", 403),
        ("127.0.0.1", "127.0.0.1.evil.example", 403),
        ("127.0.0.1", "", 403),
        ("0.0.0.0", "127.0.0.1:6066", 403),
        ("0.0.0.0", "worker.internal", 403),
        ("::", "[::1]:6066", 403),
    ],
)
def test_without_a_token_only_loopback_and_its_name(
    bound: str, host: str, status: int | None
) -> None:
    request = make_mocked_request("GET", "/recent", headers={"Host": host})
    refused = refusal(request, None, bound)
    assert (refused.status if refused else None) == status


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-FORWARDED-Anything", "X-Real-IP",
     "Via"],
)  # fmt: skip
def test_what_says_that_it_was_forwarded_is_refused_without_a_token(header: str) -> None:
    for value in ("10.0.0.1", "127.0.0.1", ""):
        request = make_mocked_request("GET", "/recent", {"Host": "127.0.0.1", header: value})
        refused = refusal(request, None, "127.0.0.1")
        assert refused is not None
        assert refused.status == 403
        authorized = make_mocked_request(
            "GET", "/recent", {"Host": "a.b", header: value, "Authorization": f"Bearer {TOKEN}"}
        )
        assert refusal(authorized, SecretStr(TOKEN), "127.0.0.1") is None


def test_a_proxy_that_adds_no_header_is_known_by_its_version_or_target() -> None:
    """nginx's `proxy_pass http://127.0.0.1:6066;` and no other line; a forward proxy's target."""
    own = {"Host": "127.0.0.1:6066"}
    for request in (
        make_mocked_request("GET", "/recent", own, version=HttpVersion10),
        make_mocked_request("GET", "http://evil.example/recent", own),
        make_mocked_request("GET", "/recent", [("Host", "127.0.0.1"), ("Host", "evil.example")]),
    ):
        refused = refusal(request, None, "127.0.0.1")
        assert refused is not None
        assert refused.status == 403


def test_services_need_a_bearer_token_in_any_case_and_a_browser_s_password_is_none() -> None:
    for authorization, expected in (
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (f"BEARER  {TOKEN}", True),
        (basic(TOKEN), False),
        (TOKEN, False),
        ("Bearer", False),
        ("", False),
    ):
        request = make_mocked_request("POST", "/", {"Authorization": authorization})
        assert has_bearer(request, SecretStr(TOKEN)) is expected


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", None),
        (f"bearer {TOKEN}", None),
        (basic(TOKEN), None),  # what a browser sends once it asked for a password
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (f"Bearer {TOKEN}x", 401),
        (TOKEN, 401),
        (basic("wrong"), 401),
        ("Basic ***", 401),
        ("Bearer ä", 401),
    ],
)
def test_with_a_token_nothing_else_counts(authorization: str, status: int | None) -> None:
    request = make_mocked_request(
        "GET", "/recent", headers={"Host": "127.0.0.1", "Authorization": authorization}
    )
    refused = refusal(request, SecretStr(TOKEN), "127.0.0.1")
    assert (refused.status if refused else None) == status
    if refused is not None:
        assert "WWW-Authenticate" in refused.headers
        assert TOKEN not in (refused.text or "")

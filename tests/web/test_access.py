"""Who may see customers' data: the contract's rule of DIALWATCH_WEB_TOKEN, row by row."""

import base64

import pytest
from aiohttp.test_utils import make_mocked_request

from app.settings import load_settings
from app.web.access import refusal

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
    ],
)
def test_without_a_token_only_loopback_and_its_name(
    bound: str, host: str, status: int | None
) -> None:
    request = make_mocked_request("GET", "/recent", headers={"Host": host})
    refused = refusal(request, load_settings(web_host=bound))
    assert (refused.status if refused else None) == status


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
    refused = refusal(request, load_settings(web_host="127.0.0.1", web_token=TOKEN))
    assert (refused.status if refused else None) == status
    if refused is not None:
        assert "WWW-Authenticate" in refused.headers
        assert TOKEN not in (refused.text or "")

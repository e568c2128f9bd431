"""The sandbox's phones in a real browser: a message reads as the platform's template does."""

import httpx
import pytest
from playwright.async_api import Page

from app.sandbox.run import running_sandbox
from app.sandbox.server import APP_ID, APP_SECRET, TEMPLATE_ID
from tests.sandbox.test_templates import DATA, READS


@pytest.mark.browser
async def test_a_phone_shows_the_template_s_text_filled_in(page: Page) -> None:
    with running_sandbox() as (_, environment):
        url = environment["DIALWATCH_WECHAT_BASE_URL"]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as web:
            said = {"grant_type": "client_credential", "appid": APP_ID, "secret": APP_SECRET}
            token = (await web.post("/cgi-bin/stable_token", json=said)).json()["access_token"]
            await web.post(
                f"/cgi-bin/message/template/send?access_token={token}",
                json={
                    "touser": "o-someone",
                    "template_id": TEMPLATE_ID,
                    "data": {name: {"value": value} for name, value in DATA.items()},
                    "miniprogram": {"appid": "wx1", "pagepath": "pages/index/index"},
                },
            )
        await page.goto(f"{url}/")
        card = page.locator(".phone .card")
        assert await card.locator(".text").inner_text() == READS  # the customer's <b> is text
        assert "pages/index/index" in await card.locator(".jump").inner_text()

"""The console's pages as a person meets them, in a real browser. Run by `make test-browser`."""

import asyncio
import re
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.console.conftest import HTML, ODD, Watched, escaped
from tests.installation import PATIENCE_SECONDS
from tests.samples import call
from tests.web.conftest import browser, page

__all__ = ["browser", "page"]

pytestmark = [pytest.mark.browser, pytest.mark.broker]


def paths(watched: Watched) -> list[str]:
    """Every kind of page there is, full and empty."""
    nid = watched.json("/deliveries?channel=wechat&account=acme")["items"][0]["notification_id"]
    letter = watched.json("/dead-letters")["items"][0]["letter"]
    return [
        "/", "/deliveries", "/deliveries?q=nothing", f"/notifications/{nid}", "/accounts/acme",
        f"/accounts/{escaped(ODD)}", f"/lines/{escaped('line/1 <x>')}", "/runs?near",
        "/batches?open", "/dead-letters", f"/dead-letters/{letter}", "/search?q=zzz",
        "/accounts/nobody",
    ]  # fmt: skip


@pytest.mark.parametrize(("language", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
async def test_every_page_can_be_used_by_everybody_and_fits(
    watched: Watched, browser: Browser, language: str, scheme: Any
) -> None:
    context = await browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=scheme, locale=language,
        reduced_motion="reduce",
    )  # fmt: skip
    tab = await context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    for path in paths(watched):
        await tab.set_viewport_size({"width": 1280, "height": 900})
        await tab.goto(watched.console.url + path)
        found = await Axe().run(tab)
        assert found.violations_count == 0, (path, found.generate_report())
        for width in (360, 768, 1280):
            await tab.set_viewport_size({"width": width, "height": 900})
            wide = await tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (path, width)
        await tab.set_viewport_size({"width": 360, "height": 800})
        found = await Axe().run(tab)
        assert found.violations_count == 0, (path, found.generate_report())
    # What isn't there is said with 404, of which the browser complains too.
    assert [line for line in wrong if "404" not in line] == []
    assert {url.partition(str(watched.console.port))[0] for url in requests} == {
        "http://127.0.0.1:"
    }
    await context.close()


async def test_an_answer_is_three_clicks_away_with_the_keyboard_alone(
    watched: Watched, page: Page
) -> None:
    await page.goto(watched.console.url)
    await page.keyboard.press("/")
    await page.keyboard.type("acme")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("acme")
    await expect(page.locator(".explain")).to_contain_text("40 of 50")
    await expect(page.locator("main")).to_contain_text(HTML)  # as text
    # A page's text is there before its script, which hears the keys.
    await page.wait_for_load_state()
    await page.keyboard.type("gd")
    await expect(page.locator("h1")).to_have_text("Deliveries")
    await page.wait_for_load_state()
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("Enter")
    await expect(page.locator(".timeline")).to_be_visible()
    await page.wait_for_load_state()
    await page.keyboard.press("?")
    await expect(page.locator("#help")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#help")).to_be_hidden()


async def test_the_log_is_filtered_in_the_url_and_follows_what_comes(
    watched: Watched, page: Page
) -> None:
    await page.goto(f"{watched.console.url}/deliveries")
    await page.get_by_label("account", exact=True).fill("quiet")
    await page.get_by_label("channel").select_option("inbox")
    await page.get_by_role("button", name="Filter").click()
    await expect(page).to_have_url(re.compile(r"/deliveries\?account=quiet&channel=inbox$"))
    await page.wait_for_load_state()
    rows = page.locator("#rows tbody tr")
    before = await rows.count()
    assert before >= 2
    await watched.installation.publish([call("quiet", 40, result="A", line_id="other")])
    await expect(rows).to_have_count(before + 1)
    await page.get_by_role("button", name="Live").click()
    await expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
    await watched.installation.publish([call("quiet", 41, result="A", line_id="other")])
    async with asyncio.timeout(PATIENCE_SECONDS):
        path = "/deliveries?account=quiet&channel=inbox"
        while len(watched.json(path)["items"]) < before + 2:  # noqa: ASYNC110 (the index is silent)
            await asyncio.sleep(0.1)
    await page.wait_for_timeout(3000)
    assert await rows.count() == before + 1
    await page.keyboard.press("p")
    await expect(rows).to_have_count(before + 2)


async def test_letters_are_handled_behind_a_confirmation_that_names_counts(
    watched: Watched, page: Page
) -> None:
    await watched.installation.publish([call("acme", 60 + n, result="Z") for n in range(2)])
    path = "/dead-letters?reason='Z'"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(watched.json(path)["items"]) < 2:  # noqa: ASYNC110 (the index is silent)
            await asyncio.sleep(0.1)
    await page.goto(watched.console.url + path)
    await page.get_by_label("Select all shown").check()
    await expect(page.locator("#count")).to_have_text("selected: 2")
    await page.get_by_role("button", name="Discard").click()
    await expect(page.locator("#plan")).to_have_text("2 will be marked discarded")
    go = page.get_by_role("button", name="Do it")
    await expect(go).to_be_disabled()  # not without a reason
    await page.get_by_label("Why (is kept with the letters)").fill("a test")
    await page.get_by_role("button", name="Cancel").click()
    assert len(watched.json(path)["items"]) == 2
    await page.get_by_role("button", name="Discard").click()
    await expect(page.locator("#plan")).to_have_text("2 will be marked discarded")
    await go.click()
    await expect(page.locator("#plan")).to_have_text("Done. 2 will be marked discarded")
    assert watched.json(path)["items"] == []
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator(".empty-state")).to_have_text("Nothing matches.")


async def test_language_and_colours_are_chosen_and_kept(watched: Watched, page: Page) -> None:
    await page.goto(f"{watched.console.url}/runs?near")
    await page.get_by_role("link", name="中文").click()
    await expect(page.locator("h1")).to_have_text("临近告警的账户和线路")
    await expect(page).to_have_url(f"{watched.console.url}/runs?near")
    await page.locator(".theme").click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.goto(watched.console.url)
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(page.locator("h1")).to_have_text("概览")


async def test_without_javascript_the_pages_are_there_all_the_same(
    watched: Watched, browser: Browser
) -> None:
    context = await browser.new_context(java_script_enabled=False)
    tab = await context.new_page()
    await tab.goto(f"{watched.console.url}/deliveries?account=acme")
    await expect(tab.locator("#rows")).to_contain_text("acme")
    await expect(tab.locator("#live")).to_be_hidden()
    await tab.goto(f"{watched.console.url}/dead-letters")
    await expect(tab.locator("body")).to_contain_text("dialwatch dlq redrive 0:17 --execute")
    await context.close()

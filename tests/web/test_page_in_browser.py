"""The worker's page as a person sees it, in a real browser. Run by `make test-browser`."""

from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from app.local.worker import WorkerProcess
from tests.installation import Installation
from tests.samples import account, call
from tests.web.conftest import answering

pytestmark = [pytest.mark.browser, pytest.mark.broker]


@pytest_asyncio.fixture
async def worker(installation: Installation) -> WorkerProcess:
    """One at work: a run of calls noticed, one record of rubbish."""
    made = installation.worker(DIALWATCH_WECHAT_APP_SECRET="do-not-show-me")
    rubbish = call("acme", 0, result="G")
    runs = [call("acme", index, result="F") for index in range(100)]
    await installation.publish([account("acme"), rubbish, *runs])
    await installation.wait_for("deliveries", lambda seen: len(seen) == 2)
    return made


async def test_the_page_shows_how_the_worker_is_and_renews_itself(
    worker: WorkerProcess, page: Page, installation: Installation
) -> None:
    await page.goto(worker.url)
    await expect(page).to_have_title(f"ready · {installation.name} · dialwatch")
    await expect(page.locator("dl.strip")).to_contain_text("0–3")
    calls = page.locator("#lag tr", has_text=installation.topics.calls)
    await expect(calls).to_contain_text("101")
    await expect(page.locator("#noticed")).to_contain_text("unreachable_run")
    await expect(page.locator("#dead-letters")).to_contain_text("result")
    await expect(page.locator("#deliveries")).to_contain_text("sent")
    await expect(page.locator("#settings")).to_contain_text("DIALWATCH_WECHAT_APP_SECRET")
    content = await page.content()
    assert "do-not-show-me" not in content
    assert "acme" not in content

    await installation.publish([call("acme", index) for index in range(100, 150)])
    await expect(calls).to_contain_text("151")


async def test_the_refresh_can_be_paused_and_goes_on_where_it_was(
    worker: WorkerProcess, page: Page
) -> None:
    await page.goto(worker.url)
    await page.locator("#defaults summary").click()
    shown = page.locator("time")
    before = await shown.inner_text()
    await expect(shown).not_to_have_text(before)
    await expect(page.locator("#defaults")).to_have_attribute("open", "")

    await page.get_by_role("button", name="Pause").click()
    await page.wait_for_timeout(500)  # a request that was under way
    paused = await shown.inner_text()
    await page.wait_for_timeout(5_000)
    assert await shown.inner_text() == paused
    await page.reload()
    await expect(page.locator("#refresh")).to_have_text("paused")
    await page.get_by_role("button", name="Go on").click()
    await expect(shown).not_to_have_text(paused)


async def test_a_worker_that_is_gone_leaves_what_was_seen_and_says_so(
    worker: WorkerProcess, browser: Browser
) -> None:
    page = await browser.new_page()  # the browser itself complains of refused connections
    await page.goto(worker.url)
    worker.terminate()
    assert worker.wait_exit() == 0
    await expect(page.locator("#refresh")).to_contain_text("doesn't answer")
    await expect(page.locator("#noticed")).to_contain_text("unreachable_run")
    await page.close()


async def test_it_fits_narrow_and_wide_screens_and_can_be_read_in_light_and_dark(
    worker: WorkerProcess, browser: Browser
) -> None:
    for width in (360, 1280):
        for scheme in ("light", "dark"):
            context = await browser.new_context(
                viewport={"width": width, "height": 800},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = await context.new_page()
            await page.goto(worker.url)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            for selector in ("body", ".dim", ".ok", ".warn", ".bad", "a"):
                assert await page.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)
            await context.close()


# WCAG's contrast of a colour of the page on its paper; 4.5 is its AA.
CONTRAST = """selector => {
  const parts = color => color.match(/[0-9.]+/g).slice(0, 3).map(part => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  const light = color => parts(color).reduce(
    (sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const made = document.createElement(selector === "a" ? "a" : "span");
  if (selector.startsWith(".")) made.className = selector.slice(1);
  if (selector === "a") made.href = "/";
  document.querySelector("main").append(made);
  const [one, other] = [light(getComputedStyle(made).color),
                        light(getComputedStyle(document.body).backgroundColor)];
  made.remove();
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}"""


async def test_without_javascript_the_page_is_there_all_the_same(
    worker: WorkerProcess, browser: Browser
) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(worker.url)
    await expect(page.locator("#noticed")).to_contain_text("unreachable_run")
    await expect(page.locator("#pause")).to_be_hidden()
    await context.close()


async def test_before_kafka_is_there_the_page_says_what_it_waits_for(
    page: Page, tmp_path: Path
) -> None:
    worker = WorkerProcess(
        tmp_path / "worker", {"DIALWATCH_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    )
    worker.launch()
    try:
        await answering(worker)
        await page.goto(worker.url)
        await expect(page.locator("dl.strip")).to_contain_text("waiting for Kafka at 127.0.0.1:1")
        await expect(page).to_have_title("not ready · dialwatch · dialwatch")
    finally:
        worker.kill()

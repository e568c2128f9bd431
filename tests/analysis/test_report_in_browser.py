"""The report as a person sees it, in a real browser. Run by `make test-browser`."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Request, expect

from tests.analysis.week import week, write_export
from tests.cli.test_commands import dialwatch
from tests.web.conftest import browser

__all__ = ["browser"]
pytestmark = pytest.mark.browser

# Text that runs out of its chart, or into the next label: the boxes as they are drawn.
CLASHES = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text:not(.value)")];
  const boxes = texts.map(one => one.getBoundingClientRect());
  return boxes.filter((box, place) =>
    box.left < frame.left - 1 || box.right > frame.right + 1 ||
    boxes.slice(place + 1).some(other => box.left < other.right && other.left < box.right
                                      && box.top < other.bottom && other.top < box.bottom));
}).length"""


async def test_the_report_stands_alone_and_fits_every_screen(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "history").mkdir()
    write_export(tmp_path / "history", week(days=3))
    made = dialwatch(
        "replay", "--files", "history", "--run-length", "50,100,200", "--sms-price", "0.05",
        "--report", "report.html", directory=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for width, scheme in ((390, "light"), (1200, "light"), (1200, "dark")):
        context = await browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page = await context.new_page()
        asked: list[Request] = []
        wrong: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request))
        page.on("console", lambda said, wrong=wrong: wrong.append(said.text))
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        await page.goto((tmp_path / "report.html").as_uri())
        await expect(page.get_by_role("heading", level=1)).to_have_text("2026-11-16 to 2026-11-18")
        await expect(page.locator("#variants tr")).to_have_count(4)
        await expect(page.locator("#variants tr.own")).to_contain_text("100 in 24 h")
        await expect(page.locator("#over-time svg")).to_have_count(3)
        await expect(page.locator("#lengths svg")).to_have_count(2)
        # Marks have an extent, and each says its figure.
        bars = page.locator("#over-time rect")
        assert await bars.count() > 20
        assert await bars.locator("title").count() == await bars.count()
        box = await bars.first.bounding_box()
        assert box is not None
        assert box["width"] > 1
        assert await page.evaluate(CLASHES) == 0
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert len(asked) == 1  # the page itself
        assert wrong == []
        await context.close()

"""A worker that may never be ready, and a real browser for the page: Debian's chromium, or
whatever Chromium is on the PATH."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from app.local.worker import WorkerProcess
from tests.installation import PATIENCE_SECONDS

expect.set_options(timeout=PATIENCE_SECONDS * 1000)

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("these tests need a Chromium on the PATH (Debian: apt-get install chromium)")
    # Chromium's sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        await running.close()


@pytest_asyncio.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A tab in which nothing may go wrong: no error of a script, nothing that is refused."""
    tab = await browser.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    yield tab
    await tab.close()
    assert wrong == []


async def answering(worker: WorkerProcess) -> None:
    """Wait until it answers: it may have no Kafka and never be ready."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            assert worker.get("/health")[0] == 200
            return
        except OSError:
            assert time.monotonic() < deadline, worker.last_words()
            await asyncio.sleep(0.1)

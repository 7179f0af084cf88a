"""A headless Chromium, for the tests of what people look at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PATIENCE_MS = 20_000  # a busy machine is no failure
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browsing() -> Iterator[Browser]:
    """The browser; the test is passed over where this machine has none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium (the program chromium)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One tab, what it asked for and what went wrong in it.

    Attributes:
        page: playwright's.
        failures: errors of scripts, and what the console calls errors.
    """

    def __init__(self, browser: Browser, *, width: int = 1280, height: int = 800, **options: Any):
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.failures: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("console", lambda said: self.failures.append(said.text) if said.type == "error" else None)
        self.context.on("request", lambda request: self.asked.append(request.url))

    @property
    def strangers(self) -> set[str]:
        """Other machines that were asked for something."""
        web = [urlsplit(url) for url in self.asked if url.startswith(("http:", "https:", "ws:", "wss:"))]
        return {url.netloc for url in web if url.hostname != "127.0.0.1"}

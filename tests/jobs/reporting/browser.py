"""A real browser for tests of the report: whichever Chromium this machine has, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """Where the browser is: what MAMI_BROWSER says, or the first of the usual names."""
    return os.environ.get("MAMI_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def browsing(executable: str) -> Iterator[Any]:
    """The browser, running. It reports to nobody, and its pages reach no network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is opened from disk, with everything that it asked for or complained of."""

    def __init__(self, browser: Any, folder: str | Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.start = f"{Path(folder).as_uri()}/"
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))

    def open(self, address: str = "") -> Any:
        """The page, at an address such as "#/gallery", drawn."""
        self.page.goto(f"{self.start}index.html{address}")
        self.page.wait_for_selector("h1")
        return self.page

    def close(self) -> None:
        """Fails if anything was asked for outside the folder, or anything complained."""
        self.context.close()
        outside = [url for url in self.requests if not url.startswith((self.start, "data:"))]
        assert not outside
        assert not self.complaints

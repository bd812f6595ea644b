"""Headless Chromium through selenium, and what it has to complain about in a page."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser_paths() -> tuple[str, str] | None:
    """The browser and its driver. Never looked for on the network, as selenium would."""
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def require_paths() -> tuple[str, str]:
    """Skips without Chromium; on a CI server, where it belongs, that is a failure."""
    found = browser_paths()
    if found is not None:
        return found
    reason = "no Chromium with chromedriver: apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Chromium:
    """A browser and a server that notes what is asked of it."""

    def __init__(self, driver: Any, directory: Path, address: str, asked: list[str]) -> None:
        self.driver, self.directory, self.address, self.asked = driver, directory, address, asked
        self._opened = 0

    def open(self, text: str, *, width: int = 1200, dark: bool = False, media: str = "") -> None:
        """Open ``text`` as a page of its own; complaints from before are forgotten."""
        from selenium.webdriver.support.wait import WebDriverWait

        # Another name each time: the browser keeps what it has seen.
        self._opened += 1
        (self.directory / self._page[1:]).write_text(text, encoding="utf-8")
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.emulate(dark=dark, media=media)
        self.driver.get("about:blank")
        self.complaints()
        self.driver.get(f"{self.address}{self._page}")
        # The driver has been seen to come back from a large page before its end was there.
        WebDriverWait(self.driver, 60, 0.05).until(
            lambda driver: driver.execute_script("return document.readyState") == "complete"
        )

    @property
    def _page(self) -> str:
        return f"/report-{self._opened}.html"

    def emulate(self, *, dark: bool = False, media: str = "") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def complaints(self) -> list[str]:
        """What went wrong since the page was opened: errors on the console (violations of the
        Content-Security-Policy are among them), and requests for anything but the page itself."""
        found = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if address != f"{self.address}{self._page}" and not address.startswith(
                    ("data:", "about:")
                ):
                    found.append(f"asks for {address}")
        found += [f"asked the server for {path}" for path in self.asked if path != self._page]
        self.asked.clear()
        return found


@contextmanager
def chromium(directory: Path) -> Iterator[Chromium]:
    """A running browser. Skips, or fails on a CI server, where there is none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver_path = require_paths()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with _server(directory) as (address, asked):
        driver = webdriver.Chrome(options=options, service=Service(driver_path))
        try:
            yield Chromium(driver, directory, address, asked)
        finally:
            driver.quit()


@contextmanager
def _server(directory: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()

"""A real browser without a window, for pages that draw themselves."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


@dataclass
class Browser:
    """What a test asks of one browser."""

    chrome: Chrome
    shown: tuple[object, ...] = ()

    def open(
        self,
        page: Path,
        *,
        width: int = 1280,
        dark: bool = False,
        touch: bool = False,
        anew: bool = False,
    ) -> str:
        """Show the page, and wait until it has drawn itself: "drawn", or the error.

        What is shown already is not loaded again, but for the asking.
        """
        if self.shown == (page, width, dark, touch) and not anew:
            return "drawn"
        self.shown = (page, width, dark, touch)
        cdp = self.chrome.execute_cdp_cmd
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        cdp(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": touch},
        )
        cdp("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        self.messages()
        self.requests()
        self.chrome.get(page.as_uri())
        return str(
            self.wait_for(
                "piscope.ready.then(() => done('drawn'), (e) => done(String(e)))"
            )
        )

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        return self.chrome.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def wait_for(self, script: str) -> Any:
        """The value that a script gives to `done(...)`, sooner or later."""
        whole = f"const done = arguments[arguments.length - 1]; {script}"
        return self.chrome.execute_async_script(whole)  # type: ignore[no-untyped-call]

    def messages(self) -> list[str]:
        """What the console got since the last time, of warnings and errors."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last time."""
        found = []
        for entry in self.chrome.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def screenshot(self, selector: str = "html") -> bytes:
        """The whole of an element as PNG."""
        box = self.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.x + scrollX, box.y + scrollY, box.width, box.height];",
            selector,
        )
        clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
        shot = self.chrome.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        printed = self.chrome.execute_cdp_cmd(
            "Page.printToPDF", {"preferCSSPageSize": True, "paperWidth": 8.27}
        )
        return base64.b64decode(printed["data"])


@contextmanager
def browser(chromium: str, chromedriver: str, profile: Path) -> Iterator[Browser]:
    """A browser of its own, with a new profile; selenium downloads nothing."""
    os.environ["SE_OFFLINE"] = "true"
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "WARNING", "performance": "ALL"}
    )
    chrome = Chrome(options=options, service=Service(chromedriver))
    try:
        chrome.set_script_timeout(120)
        yield Browser(chrome)
    finally:
        chrome.quit()

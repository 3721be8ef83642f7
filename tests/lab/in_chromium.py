"""What a page is like in real Chromium: python in_chromium.py PAGE FOLDER prints JSON.

A process of its own, since gevent, which pyinfra brings, does not go together with Playwright.
Pictures go to FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

#: CSS pixels: a phone, a small window, a large one.
WIDTHS = {"phone": 360, "tablet": 768, "desktop": 1200}
#: A4 between margins of 12 mm, at 96 CSS pixels to the inch.
PRINTED = 703


def looks(file: Path, folder: Path) -> dict[str, Any]:
    """``asked``: what the page fetched from elsewhere; ``said``: errors on its console; ``wide``:
    widths at which it has to be scrolled sideways; ``axe``: rules of accessibility it breaks.
    """
    found: dict[str, Any] = {"asked": [], "said": [], "wide": [], "axe": []}
    with sync_playwright() as playwright:
        # The sandbox wants a user other than root, and the page is our own.
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page()
        own = file.resolve().as_uri()

        def asks(request: Request) -> None:
            if request.url.partition("#")[0] != own:
                found["asked"].append(request.url)

        def says(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                found["said"].append(message.text)

        page.on("request", asks)
        page.on("console", says)
        page.on("pageerror", lambda error: found["said"].append(str(error)))
        page.goto(own)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for name, width in WIDTHS.items():
                page.set_viewport_size({"width": width, "height": 800})
                _note_width(page, f"{name} {scheme}", found)
                for rule in Axe().run(page).response["violations"]:
                    where = rule["nodes"][0]["html"]
                    found["axe"].append(f"{name} {scheme}: {rule['id']}: {where}")
                page.screenshot(path=folder / f"{name}-{scheme}.png", full_page=True)
        page.emulate_media(media="print", color_scheme="light")
        page.set_viewport_size({"width": PRINTED, "height": 1000})
        _note_width(page, "printed", found)
        page.pdf(path=folder / "printed.pdf", format="A4")
        browser.close()
    return found


def _note_width(page: Page, name: str, found: dict[str, Any]) -> None:
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        found["wide"].append(name)


if __name__ == "__main__":
    print(json.dumps(looks(Path(sys.argv[1]), Path(sys.argv[2]))))

"""An operator at the admin pages: a tab of Chromium that hears everything that goes wrong in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.backoffice.service import PASSWORD

WATCH = """
addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))
window.hacked = (...told) => console.error('HACKED', location.href, ...told)
"""
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
OPTIONS: dict[str, Any] = {"locale": "en-GB", "reduced_motion": "reduce"}


class Desk:
    """One operator's tab. Leaving it fails where the console had an error or the page broke its own policy."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.problems: list[str] = []
        self.expected: tuple[str, ...] = ()  # parts of problems that a test asks for; they come in their own time
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{self.page.url}: {message.text}")

    async def log_in(self, name: str = "admin", password: str = PASSWORD) -> None:
        await self.page.goto(f"{self.url}/login")
        await self.page.locator("[name=name]").fill(name)
        await self.page.locator("[name=password]").fill(password)
        await self.page.locator("button.primary").click()
        await expect(self.page.locator("nav.side")).to_be_visible()

    async def go(self, path: str) -> None:
        await self.page.goto(self.url + path)
        await expect(self.page.locator("h1")).to_be_visible()

    async def live(self) -> None:
        """Wait until the page hears events."""
        await expect(self.page.locator("#link")).to_have_text("Live")

    @property
    def dialog(self) -> Locator:
        return self.page.locator("dialog#act")

    @property
    def outcome(self) -> Locator:
        return self.page.locator(".outcome").last


async def axe(desk: Desk) -> list[str]:
    """What people with a screen reader, little sight or no mouse would stumble over; colours in light and dark."""
    await desk.page.evaluate(AXE_FILE_PATH.read_text())
    found: list[dict[str, Any]] = []
    for scheme, only in (("light", TAGS), ("dark", {"type": "rule", "values": ["color-contrast"]})):
        await desk.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found += await desk.page.evaluate(
            "async (only) => (await axe.run(document, { runOnly: only, resultTypes: ['violations'] })).violations", only
        )
    return [
        f"{desk.page.url} {each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found
        for node in each["nodes"]
    ]


Sit = Callable[..., Awaitable[Desk]]


@asynccontextmanager
async def desks(browser: Browser, url: str) -> AsyncIterator[Sit]:
    open_: list[Desk] = []

    async def sit(**options: Any) -> Desk:
        context = await browser.new_context(**(OPTIONS | options))
        await context.add_init_script(WATCH)
        desk = Desk(await context.new_page(), url)
        open_.append(desk)
        return desk

    yield sit
    for desk in open_:
        await desk.page.context.close()
        unexpected = [each for each in desk.problems if not any(part in each for part in desk.expected)]
        assert unexpected == [], unexpected

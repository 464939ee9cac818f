"""The admin pages in Chromium, as operators use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser, expect

from tests.backoffice.service import PASSWORD, Api, backoffice
from tests.browser.desk import Desk, Sit, desks
from tests.chatserver.conftest import Chat, RunningNode

expect.set_options(timeout=15_000)  # the machine may be busy with other tests
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
PATHS = ["/", "/password"]
LOOKS = [("en-GB", "light"), ("ko-KR", "dark")]


@pytest.fixture
async def api(chat: Chat) -> AsyncIterator[Api]:
    """A back office beside the nodes."""
    async with backoffice(chat.bridge.settings) as api:
        yield api


@pytest.fixture
async def sit(browser: Browser, api: Api) -> AsyncIterator[Sit]:
    async with desks(browser, api.url) as sit:
        yield sit


async def axe(desk: Desk) -> list[str]:
    """What people with a screen reader, little sight or no mouse would stumble over."""
    await desk.page.evaluate(AXE_FILE_PATH.read_text())
    found: dict[str, Any] = await desk.page.evaluate(
        "tags => axe.run(document, { runOnly: tags, resultTypes: ['violations'] })", TAGS
    )
    return [
        f"{desk.page.url} {each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


async def test_who_is_not_logged_in_logs_in_and_comes_where_they_wanted(node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.page.goto(f"{desk.url}/password")
    await desk.page.locator("[name=name]").fill("admin")
    await desk.page.locator("[name=password]").fill("wrong")
    await desk.page.locator("button.primary").click()
    await expect(desk.page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    await expect(desk.page.locator("[name=name]")).to_have_value("admin")
    await desk.page.locator("[name=password]").fill(PASSWORD)
    await desk.page.locator("button.primary").click()
    await expect(desk.page).to_have_url(f"{desk.url}/password")
    assert [problem for problem in desk.problems if "401" in problem]
    desk.problems.clear()


async def test_the_overview_shows_nodes_as_they_come_and_go(chat: Chat, node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.live()
    rows = desk.page.locator("#below tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows.first).to_contain_text("node-a")
    await expect(desk.page.locator(".cells li")).to_have_count(4)
    await expect(desk.page.locator(".uplot")).to_have_count(4)
    await chat.start_node("node-b")
    await expect(rows).to_have_count(2)
    await expect(desk.page.locator(".cells li", has_text="node-b").first).to_be_visible()


async def test_logging_out_everywhere_ends_the_other_tab(node: RunningNode, sit: Sit) -> None:
    desk, other = await sit(), await sit()
    for each in (desk, other):
        await each.log_in()
        await each.live()
    await desk.page.locator("details.me summary").click()
    await desk.page.get_by_role("button", name="Log out everywhere").click()
    for each in (desk, other):
        await expect(each.page.get_by_role("heading", name="Log in")).to_be_visible()
    other.problems[:] = [problem for problem in other.problems if "401" not in problem]


@pytest.mark.parametrize(("locale", "scheme"), LOOKS)
async def test_nobody_stumbles_over_a_page(node: RunningNode, sit: Sit, locale: str, scheme: str) -> None:
    desk = await sit(locale=locale, color_scheme=scheme)
    await desk.go("/login")
    found = await axe(desk)
    await desk.log_in()
    for path in PATHS:
        await desk.go(path)
        found += await axe(desk)
        assert await desk.page.locator("html").get_attribute("lang") == locale[:2]
    assert found == []


async def test_pages_can_be_read_without_scripts_on_a_narrow_screen(node: RunningNode, sit: Sit) -> None:
    desk = await sit(java_script_enabled=False, viewport={"width": 400, "height": 800})
    await desk.log_in()
    for path in PATHS:
        await desk.go(path)
        box = await desk.page.locator("html").bounding_box()
        assert box is not None
        assert box["width"] <= 400
    await desk.go("/")
    await expect(desk.page.locator("#below")).to_contain_text("node-a")


async def test_looks_and_language_are_chosen_without_scripts(node: RunningNode, sit: Sit) -> None:
    desk = await sit(java_script_enabled=False)
    await desk.go("/login")
    await desk.page.locator("[name=theme]").select_option("dark")
    await desk.page.locator("[name=language]").select_option("ko")
    await desk.page.locator(".preferences button").click()
    await expect(desk.page.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(desk.page.locator("h1")).to_have_text("로그인")
